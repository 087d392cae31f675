"""The answer decoder: a small language model that looks at the fused states of a question (ALBEF section 4, VQA).

Answers are linked to questions by an index, as texts to images in the fusion encoder: a question is encoded once, and
its keys and values are computed once a block, however many answers are scored.

Shape letters: A answers, M tokens of an answer, S tokens so far (those in the cache included), Q questions,
L tokens of a question, D width, C width of the question's states, V vocabulary.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.nn.cache import Cache
from wordregion.nn.fusion import FusionBlock, FusionEncoder, init_like_bert
from wordregion.nn.heads import MaskHead
from wordregion.nn.text import TextEncoder


class AnswerDecoder(nn.Module):
    """Embeddings, fusion blocks that only look back, and BERT's word head tied to the embeddings.

    Args:
        embeddings: BERT's (word, position, type, norm), injected; `TextEncoder.body.embeddings` or a copy of it.
        question_width: C.
        layers: number of blocks (ALBEF: 6), which look at the question as a fusion block looks at an image.
        heads: attention heads; divides D.
        inner: width of the feed-forward part; 4 D if None.
        eps: of the LayerNorms (BERT: 1e-12).
        dropout: rate in [0, 1).
    """

    def __init__(
        self,
        embeddings: nn.Module,
        question_width: int,
        layers: int,
        heads: int,
        inner: int | None = None,
        eps: float = 1e-12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        words = embeddings.word_embeddings
        assert isinstance(words, nn.Embedding)
        width = words.embedding_dim
        self.embeddings = embeddings
        self.layers = nn.ModuleList(
            FusionBlock(width, question_width, heads, inner or 4 * width, eps, dropout) for _ in range(layers)
        )
        self.layers.apply(init_like_bert)
        self.head = MaskHead(words, eps)

    def forward(
        self,
        ids_AM: Int[Tensor, "A M"],
        mask_AM: Bool[Tensor, "A M"],
        question_QLC: Float[Tensor, "Q L C"],
        question_mask_QL: Bool[Tensor, "Q L"],
        question_A: Int[Tensor, "A"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "A M D"]:
        """States of the answers' tokens: what stands at a token predicts the next one, through `head`.

        Args:
            ids_AM: answers, from [CLS] on; with a cache, only the tokens that it does not hold yet.
            mask_AM: True at real tokens.
            question_QLC: fused states of the questions.
            question_mask_QL: True at their real tokens.
            question_A: question of each answer; None = answers are ordered by question, equally many for each.
            cache: of the same answers and questions; it takes in the new tokens. Its own tokens count as real.
        """
        A, M = ids_AM.shape
        past = 0 if cache is None else cache.length
        position = torch.arange(past, past + M, device=ids_AM.device)
        x = self.embeddings(input_ids=ids_AM, position_ids=position[None].expand(A, M))
        real_AS = torch.cat([mask_AM.new_ones(A, past), mask_AM], dim=1)
        causal_MS = torch.arange(past + M, device=ids_AM.device) <= position[:, None]
        mask = real_AS[:, None, None, :] & causal_MS
        for index, layer in enumerate(self.layers):
            own = None if cache is None else cache.blocks[index]
            x, _ = layer(x, mask, question_QLC, question_A, image_mask_IN=question_mask_QL, cache=own)
        return x

    def new_cache(self) -> Cache:
        """An empty cache for generation."""
        return Cache(len(self.layers))

    @torch.no_grad()
    def seed(self, text: TextEncoder, fusion: FusionEncoder, words: MaskHead | None = None) -> None:
        """Starts from a trained model, as ALBEF does: embeddings from its text half, blocks from its last fusion
        blocks, the head from its masked-word head.

        Where there are more decoder blocks than fusion blocks the first of them stay new. The cross-attention's keys
        and values stay new where the image tokens have another width than the question's states.

        Args:
            text: of the same width and vocabulary.
            fusion: of the same width.
            words: its masked-word head, if it has one.
        """
        _copy(text.body.embeddings, self.embeddings)
        sources = list(fusion.layers)[-len(self.layers) :]
        for source, target in zip(sources, list(self.layers)[-len(sources) :], strict=True):
            assert isinstance(source, FusionBlock)
            assert isinstance(target, FusionBlock)
            _copy(source.attention, target.attention)
            _copy(source.feed_forward, target.feed_forward)
            same = source.cross.kv.weight.shape == target.cross.kv.weight.shape
            _copy(source.cross, target.cross, skip=() if same else ("kv.",))
        if words is not None:
            _copy(words, self.head)


def _copy(source: nn.Module, target: nn.Module, skip: tuple[str, ...] = ()) -> None:
    state = {name: value for name, value in source.state_dict().items() if not (skip and name.startswith(skip))}
    missing, unexpected = target.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(skip and name.startswith(skip) for name in missing)
