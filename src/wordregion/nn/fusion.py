"""The fusion encoder: BERT layers with a cross-attention from the text to the image (ALBEF section 3.1).

A batch of pairs links texts to images by an index. The keys and values of an image are computed once a layer, however
many texts it is paired with.

The same blocks decode from left to right, as a language model that sees the image: by a mask of which tokens may be
looked at, and with a cache of the tokens so far.

Shape letters: P pairs, L text tokens, S text tokens with those in the cache, I images, N image tokens, D text width,
V image width, H heads, K head width. States without padding have a row a token (P = all real tokens, L = 1); their T
texts of Q tokens stay padded where the tokens of a text look at each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.nn.attention import attend
from wordregion.nn.cache import BlockCache
from wordregion.nn.packing import Packing

FEW_SCORES = 512
"""Where an image has fewer scores a head (rows times image tokens), a CPU too takes all pairs in one call: calls cost
more than copies there (``benchmarks/attention.py``)."""


@dataclass(frozen=True, slots=True)
class SharedTokens:
    """Rows of image tokens that are another row's but for the first, the summary: regions of an image, pooled.

    Attributes:
        images: how many rows, from the first on, have tokens of their own.
        source: (I,) the row, below `images`, whose tokens each row has.
    """

    images: int
    source: Int[Tensor, "I"]


@dataclass(frozen=True, slots=True)
class Fused:
    """What the fusion encoder returns.

    Attributes:
        hidden: (P, L, D) states of the text tokens.
        cls: (P, D) state of the first token: the pair's representation.
        attention: (P, H, L, N) cross-attention weights of the layer asked for, in [0, 1], or None.
    """

    hidden: Tensor
    cls: Tensor
    attention: Tensor | None = None

    def split(self, sizes: list[int]) -> list["Fused"]:
        """The results of several requests that were fused in one pass."""
        return [Fused(h, c) for h, c in zip(self.hidden.split(sizes), self.cls.split(sizes), strict=True)]


class SelfAttention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values, then residual and LayerNorm (BERT)."""

    def __init__(self, width: int, heads: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps)

    def project(self, x_PLD: Float[Tensor, "P L D"], packing: Packing | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (T, H, Q, K)."""
        qkv = self.qkv(x_PLD)
        if packing is not None:
            qkv = packing.pad(qkv)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(
        self,
        x_PLD: Float[Tensor, "P L D"],
        q_THQK: Float[Tensor, "T H Q K"],
        k_THSK: Float[Tensor, "T H S K"],
        v_THSK: Float[Tensor, "T H S K"],
        mask: Bool[Tensor, "T 1 #Q S"],
        packing: Packing | None = None,
    ) -> Float[Tensor, "P L D"]:
        """States after attention to S tokens; `mask` is True where a token may be looked at."""
        p = self.dropout if self.training else 0.0
        y = attend(q_THQK, k_THSK, v_THSK, mask, p).transpose(1, 2).flatten(2)
        if packing is not None:
            y = packing.pack(y)
        y = F.dropout(self.out(y), p, self.training)
        return self.norm(x_PLD + y)


class CrossAttention(nn.Module):
    """Text tokens attend to image tokens; then residual and LayerNorm. Keys and values come from one matrix."""

    def __init__(self, width: int, image_width: int, heads: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(image_width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps)

    def keys_values(
        self, image_INV: Float[Tensor, "I N V"], shared: SharedTokens | None = None
    ) -> Float[Tensor, "I 2 H N K"]:
        """Keys and values of what is looked at; those of shared tokens are computed once."""
        images, N, _ = image_INV.shape
        if shared is None:
            kv = self.kv(image_INV)
        else:
            own = self.kv(image_INV[: shared.images, 1:])
            kv = torch.cat([self.kv(image_INV[:, :1]), own.index_select(0, shared.source)], dim=1)
        return kv.view(images, N, 2, self.heads, -1).permute(0, 2, 3, 1, 4)

    def attend(
        self,
        x_PLD: Float[Tensor, "P L D"],
        kv: Float[Tensor, "I 2 H N K"],
        image_index_P: Int[Tensor, "P"] | None,
        mask_IN: Bool[Tensor, "I N"] | None = None,
        want_attention: bool = False,
    ) -> tuple[Float[Tensor, "P L D"], Float[Tensor, "P H L N"] | None]:
        """States after looking at the image, and the attention weights if wanted.

        Args:
            x_PLD: states of the texts.
            kv: of `keys_values`.
            image_index_P: image of each text; None = texts are ordered by image, equally many for each.
            mask_IN: True where one may look; None = everywhere.
            want_attention: whether to return the weights, in [0, 1].
        """
        P, L, D = x_PLD.shape
        images, H, K = len(kv), self.heads, D // self.heads
        p = self.dropout if self.training else 0.0
        q = self.q(x_PLD)
        mask = None if mask_IN is None else mask_IN[:, None, None, :]
        attention = None
        if image_index_P is None and not want_attention:
            # Every image has the same number of texts, in order: its texts form one long query, nothing is copied.
            q = q.view(images, -1, H, K).transpose(1, 2)
            y = attend(q, kv[:, 0], kv[:, 1], mask, p).transpose(1, 2)
        elif not want_attention and _image_by_image(x_PLD) and P * L * kv.shape[3] >= FEW_SCORES * images:
            assert image_index_P is not None
            y = _attend_by_image(q, kv, image_index_P, mask, p)
        else:
            if image_index_P is None:
                image_index_P = torch.arange(images, device=x_PLD.device).repeat_interleave(P // images)
            q = q.view(P, L, H, K).transpose(1, 2)
            k, v = kv.index_select(0, image_index_P).unbind(1)
            mask = None if mask is None else mask.index_select(0, image_index_P)
            if want_attention:
                scores = (q @ k.transpose(-1, -2)) / K**0.5
                attention = (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).softmax(-1)
                y = (F.dropout(attention, p, self.training) @ v).transpose(1, 2)
            else:
                y = attend(q, k, v, mask, p).transpose(1, 2)
        y = F.dropout(self.out(y.reshape(P, L, D)), p, self.training)
        return self.norm(x_PLD + y), attention


def _image_by_image(x: Tensor) -> bool:
    """Whether `_attend_by_image` is the way here: on a CPU, unless the code is being compiled."""
    return not (x.is_cuda or torch.compiler.is_compiling())


def _attend_by_image(
    q_PLD: Tensor, kv_I2HNK: Tensor, image_index_P: Tensor, mask_I11N: Tensor | None, p: float
) -> Tensor:
    """Attention with the texts of each image as one long query: on a CPU, copying keys and values for every pair (and
    adding up the copies' gradients) costs more than the products. A GPU rather takes all pairs in one call.
    """
    _, L, D = q_PLD.shape
    H, K = kv_I2HNK.shape[2], kv_I2HNK.shape[4]
    order = image_index_P.argsort(stable=True)
    counts = torch.bincount(image_index_P, minlength=len(kv_I2HNK)).tolist()
    done = []
    for image, (q, kv) in enumerate(zip(q_PLD[order].split(counts), kv_I2HNK.unbind(0), strict=True)):
        if len(q):
            q_1HMK = q.reshape(1, -1, H, K).transpose(1, 2)
            mask = None if mask_I11N is None else mask_I11N[image : image + 1]
            y = attend(q_1HMK, kv[None, 0], kv[None, 1], mask, p)
            done.append(y.transpose(1, 2).reshape(-1, L, D))
    return torch.cat(done)[order.argsort()] if done else q_PLD


class FeedForward(nn.Module):
    """Two linear maps with an exact GELU between, then residual and LayerNorm (BERT)."""

    def __init__(self, width: int, inner: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """States after the feed-forward part."""
        y = F.dropout(self.down(F.gelu(self.up(x))), self.dropout, self.training)
        return self.norm(x + y)


class FusionBlock(nn.Module):
    """Self-attention over the text, cross-attention to the image, feed-forward."""

    def __init__(
        self, width: int, image_width: int, heads: int, inner: int, eps: float = 1e-12, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, eps, dropout)
        self.cross = CrossAttention(width, image_width, heads, eps, dropout)
        self.feed_forward = FeedForward(width, inner, eps, dropout)

    def forward(
        self,
        x_PLD: Float[Tensor, "P L D"],
        mask: Bool[Tensor, "T S"] | Bool[Tensor, "T 1 #Q S"],
        image_INV: Float[Tensor, "I N V"],
        image_index_P: Int[Tensor, "P"] | None,
        want_attention: bool = False,
        image_mask_IN: Bool[Tensor, "I N"] | None = None,
        cache: BlockCache | None = None,
        shared: SharedTokens | None = None,
        packing: Packing | None = None,
    ) -> tuple[Float[Tensor, "P L D"], Float[Tensor, "P H L N"] | None]:
        """States of the text tokens, and the cross-attention weights if wanted.

        Args:
            x_PLD: states; with a cache, those of the new tokens only.
            mask: True at real tokens (T, S), or which of all tokens each token may look at (T, 1, Q or 1, S).
            image_INV: image tokens; not read again once the cache has their keys and values.
            image_index_P: image of each pair; None = pairs are ordered by image, equally many for each.
            want_attention: whether to return the cross-attention weights.
            image_mask_IN: which image tokens may be looked at; None = all.
            cache: takes in the new tokens.
            shared: which image tokens repeat others; None = none.
            packing: of the states, if they come without padding (R, 1, D); then `image_index_P` has R entries.
        """
        q, k, v = self.attention.project(x_PLD, packing)
        if cache is not None:
            k, v = cache.extend(k, v)
        x_PLD = self.attention.attend(x_PLD, q, k, v, mask if mask.ndim == 4 else mask[:, None, None, :], packing)
        kv = None if cache is None else cache.image
        if kv is None:
            kv = self.cross.keys_values(image_INV, shared)
            if cache is not None:
                cache.image = kv
        x_PLD, attention = self.cross.attend(x_PLD, kv, image_index_P, image_mask_IN, want_attention)
        return self.feed_forward(x_PLD), attention

    def seed_from_bert(self, layer: Mapping[str, Tensor]) -> None:
        """Takes self-attention and feed-forward from one layer of a BERT state dict; the cross-attention stays new."""
        parts = {
            "attention.qkv": [f"attention.self.{name}" for name in ("query", "key", "value")],
            "attention.out": ["attention.output.dense"],
            "attention.norm": ["attention.output.LayerNorm"],
            "feed_forward.up": ["intermediate.dense"],
            "feed_forward.down": ["output.dense"],
            "feed_forward.norm": ["output.LayerNorm"],
        }
        state = {
            f"{ours}.{kind}": torch.cat([layer[f"{theirs}.{kind}"] for theirs in sources])
            for ours, sources in parts.items()
            for kind in ("weight", "bias")
        }
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.startswith("cross.") for name in missing)


class FusionEncoder(nn.Module):
    """A stack of fusion blocks.

    Args:
        width: D of the text.
        image_width: V of the image tokens.
        layers: number of blocks.
        heads: attention heads; divides `width`.
        inner: width of the feed-forward part; 4 x width if None.
        eps: of the LayerNorms (BERT: 1e-12).
        dropout: rate in [0, 1) on attention weights and block outputs (BERT: 0.1).
    """

    def __init__(
        self,
        width: int,
        image_width: int,
        layers: int,
        heads: int,
        inner: int | None = None,
        eps: float = 1e-12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inner = inner or 4 * width
        self.layers = nn.ModuleList(FusionBlock(width, image_width, heads, inner, eps, dropout) for _ in range(layers))
        self.apply(init_like_bert)

    def seed_from_bert(self, layers: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes self-attention and feed-forward of each block from one BERT layer; as many layers as blocks."""
        for block, layer in zip(self.layers, layers, strict=True):
            assert isinstance(block, FusionBlock)
            block.seed_from_bert(layer)

    def forward(
        self,
        text_PLD: Float[Tensor, "P L D"],
        mask_PL: Bool[Tensor, "P L"],
        image_INV: Float[Tensor, "I N V"],
        image_index_P: Int[Tensor, "P"] | None = None,
        attention_layer: int | None = None,
        image_mask_IN: Bool[Tensor, "I N"] | None = None,
        shared: SharedTokens | None = None,
    ) -> Fused:
        """Fuses P pairs.

        Training on a CPU leaves padding out (`Packing`), so that a phrase costs less than a caption; `Fused.hidden` is
        0 there.

        Args:
            text_PLD: text states of each pair.
            mask_PL: True at real tokens.
            image_INV: image tokens; each image's keys and values are computed once a layer.
            image_index_P: image of each pair; None = pairs are ordered by image, equally many for each.
            attention_layer: the block whose cross-attention weights to return (counted from 0).
            image_mask_IN: True at the image tokens that a text may look at, for regions; None = all.
            shared: which image tokens repeat others, for regions; None = none.
        """
        attention, packing = None, None
        x = text_PLD
        whole = attention_layer is None and all(layer._compiled_call_impl is None for layer in self.layers)
        if self.training and whole and _image_by_image(x):  # else keys and values would be copied for every token
            packing = Packing.of(mask_PL)
        if packing is not None:
            if image_index_P is None:
                image_index_P = torch.arange(len(image_INV), device=x.device).repeat_interleave(
                    len(x) // len(image_INV)
                )
            x, image_index_P = packing.pack(x), image_index_P[packing.text]
        for index, layer in enumerate(self.layers):
            x, weights = layer(
                x,
                mask_PL,
                image_INV,
                image_index_P,
                index == attention_layer,
                image_mask_IN,
                shared=shared,
                packing=packing,
            )
            attention = attention if weights is None else weights
        if packing is not None:
            x = packing.pad(x)
        return Fused(x, x[:, 0], attention)


def init_like_bert(module: nn.Module) -> None:
    """Normal weights of 0.02 and zero biases for a linear map (for `Module.apply`)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
