"""BERT-like text encoders from transformers, split into a text half and the layers that seed the fusion half.

Shape letters: T texts, L tokens, S tokens with those in a cache, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModel, PretrainedConfig
from transformers.masking_utils import sdpa_mask

from wordregion.errors import CheckpointError
from wordregion.nn.attention import attend
from wordregion.nn.cache import BlockCache
from wordregion.nn.weights import load_backbone, read_weights

ATTENTION = "wordregion"
"""Name of `attend` among the ways of attention that transformers' models may be told to use."""


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0, **_: Any
) -> tuple[Tensor, None]:
    return attend(query, key, value, mask, dropout).transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class TextEncoder(nn.Module):
    """The embeddings and the first layers of a BERT or RoBERTa.

    Args:
        config: a transformers config whose ``num_hidden_layers`` is the number of layers to build.
        pool: what stands for the whole text: ``"cls"`` (the first token) or ``"mean"`` (of the real tokens).
    """

    def __init__(self, config: PretrainedConfig, pool: Literal["cls", "mean"] = "cls") -> None:
        super().__init__()
        config._attn_implementation = ATTENTION
        self.body = AutoModel.from_config(config, add_pooling_layer=False)
        self.width: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.pool = pool

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The (vocabulary, D) table, to which a masked-word head ties its decoder."""
        return self.body.embeddings.word_embeddings

    def forward(self, ids_TL: Int[Tensor, "T L"], mask_TL: Bool[Tensor, "T L"]) -> Float[Tensor, "T L D"]:
        """Hidden states of the last layer; those at padding are meaningless."""
        return self.body(input_ids=ids_TL, attention_mask=mask_TL).last_hidden_state

    def decode(
        self, ids_TL: Int[Tensor, "T L"], mask: Bool[Tensor, "T 1 L S"], cache: Sequence[BlockCache] | None = None
    ) -> Float[Tensor, "T L D"]:
        """Hidden states of the last layer as those of a language model.

        Args:
            ids_TL: tokens; with a cache, those that it does not hold yet.
            mask: which of all tokens each token may look at.
            cache: one a layer; takes in the new tokens.
        """
        x = self.body.embeddings(input_ids=ids_TL, past_key_values_length=mask.shape[-1] - ids_TL.shape[1])
        for index, layer in enumerate(self.body.encoder.layer):
            own = None if cache is None else _Handed(cache[index])
            x = layer(x, attention_mask=mask, past_key_values=own)
        return x

    def summary(self, hidden_TLD: Float[Tensor, "T L D"], mask_TL: Bool[Tensor, "T L"]) -> Float[Tensor, "T D"]:
        """One vector a text, by `pool`."""
        if self.pool == "cls":
            return hidden_TLD[:, 0]
        weight_TL1 = mask_TL.unsqueeze(-1).to(hidden_TLD.dtype)
        return (hidden_TLD * weight_TL1).sum(1) / weight_TL1.sum(1).clamp(min=1)

    def blocks(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.body.encoder.layer)


class _Handed:
    """A `BlockCache` as transformers' layers call theirs."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache

    def update(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return self._cache.extend(k, v)


def bert_config(
    vocab_size: int, width: int, layers: int, heads: int, max_tokens: int = 512, dropout: float = 0.1
) -> PretrainedConfig:
    """A BERT configuration of any size with the published proportions (feed-forward 4 x width)."""
    return AutoConfig.for_model(
        "bert",
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_tokens,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def split_bert(
    name: str | Path,
    text_layers: int | None,
    weights: bool = True,
    pool: Literal["cls", "mean"] = "cls",
    dropout: float | None = None,
) -> tuple[TextEncoder, list[dict[str, Tensor]], PretrainedConfig]:
    """Splits a published encoder: its first layers as a text encoder, the rest as seeds for the fusion layers.

    Args:
        name: a hub name (``"bert-base-uncased"``) or a folder with ``config.json`` and ``model.safetensors``.
        text_layers: layers in the text half; None = all.
        weights: False builds the same architecture with random values and reads only the config.
        pool: see `TextEncoder`.
        dropout: rate in [0, 1) on attention weights and outputs; None = as published.

    Returns:
        The text encoder; the state dicts of the remaining layers, in order; the whole model's config.

    Raises:
        CheckpointError: if the folder or the hub has no such model, or a layer lacks weights.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: no text encoder there. Give a hub name or a folder with config.json."
        ) from error
    total = config.num_hidden_layers
    text_layers = total if text_layers is None else text_layers
    if not 0 < text_layers <= total:
        raise CheckpointError(f"{name}: has {total} layers, so text_layers={text_layers} is out of range 1..{total}.")
    half = type(config).from_dict({**config.to_dict(), "num_hidden_layers": text_layers})
    if dropout is not None:
        half.hidden_dropout_prob = half.attention_probs_dropout_prob = dropout
    encoder = TextEncoder(half, pool)
    if not weights:
        return encoder, [], config
    if Path(name).is_dir():
        state = _without_prefix(read_weights(_weight_file(Path(name))))
    else:
        full = AutoModel.from_pretrained(name, add_pooling_layer=False)
        state = full.state_dict()
    upper = [_layer(state, index) for index in range(text_layers, total)]
    upper_prefixes = tuple(f"encoder.layer.{index}." for index in range(text_layers, total))
    lower = {n: v for n, v in state.items() if not n.startswith(upper_prefixes)} if upper_prefixes else state
    load_backbone(encoder.body, lower, source=str(name), ignore=("pooler.", "cls.", "lm_head."))
    return encoder, upper, config


def _weight_file(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: holds neither model.safetensors nor pytorch_model.bin. Put the weights there.")


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("bert.").removeprefix("roberta."): value for name, value in state.items()}


def _layer(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    prefix = f"encoder.layer.{index}."
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
