"""The answer decoder: a small language model that looks at the fused states of a question (ALBEF section 4, VQA).

Answers are linked to questions by an index, as texts to images in the fusion encoder: a question is encoded once, and
its keys and values are computed once a block, however many answers are scored.

Shape letters: A answers, M tokens of an answer, S tokens so far (those in the cache included), Q questions,
L tokens of a question, D width, C width of the question's states, V vocabulary.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.nn.fusion import CrossAttention, FeedForward, FusionBlock, FusionEncoder, SelfAttention, init_like_bert
from wordregion.nn.heads import MaskHead
from wordregion.nn.text import TextEncoder


class BlockCache:
    """What one block need not compute again for the next token: keys and values of the answers, and of the questions.

    Attributes:
        answer: (2, A, H, S, K) of the tokens so far, or None before the first.
        question: (Q, 2, H, L, K), or None before the first.
    """

    def __init__(self) -> None:
        self.answer: Tensor | None = None
        self.question: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the keys and values of new tokens and returns those of all tokens."""
        new = torch.stack([k, v])
        self.answer = new if self.answer is None else torch.cat([self.answer, new], dim=3)
        return self.answer[0], self.answer[1]


class Cache:
    """One `BlockCache` a block.

    Args:
        blocks: how many.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = [BlockCache() for _ in range(blocks)]

    @property
    def length(self) -> int:
        """Tokens so far."""
        answer = self.blocks[0].answer
        return 0 if answer is None else answer.shape[3]

    def keep(self, rows: Int[Tensor, "A"]) -> None:
        """Takes these answers' rows as the new answers (beam search)."""
        for block in self.blocks:
            assert block.answer is not None
            block.answer = block.answer.index_select(1, rows)


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention to the question, feed-forward: a `FusionBlock` that only looks back."""

    def __init__(
        self, width: int, question_width: int, heads: int, inner: int, eps: float = 1e-12, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, eps, dropout)
        self.cross = CrossAttention(width, question_width, heads, eps, dropout)
        self.feed_forward = FeedForward(width, inner, eps, dropout)

    def forward(
        self,
        x_AMD: Float[Tensor, "A M D"],
        mask: Bool[Tensor, "A 1 M S"],
        question_QLC: Float[Tensor, "Q L C"],
        question_mask_QL: Bool[Tensor, "Q L"],
        question_A: Int[Tensor, "A"] | None,
        cache: BlockCache | None = None,
    ) -> Float[Tensor, "A M D"]:
        """States of the new tokens; `mask` says which of all tokens each of them may look at."""
        q, k, v = self.attention.project(x_AMD)
        if cache is not None:
            k, v = cache.extend(k, v)
        x_AMD = self.attention.attend(x_AMD, q, k, v, mask)
        kv = None if cache is None else cache.question
        if kv is None:
            kv = self.cross.keys_values(question_QLC)
            if cache is not None:
                cache.question = kv
        x_AMD, _ = self.cross.attend(x_AMD, kv, question_A, question_mask_QL)
        return self.feed_forward(x_AMD)


class AnswerDecoder(nn.Module):
    """Embeddings, decoder blocks, and BERT's word head tied to the embeddings.

    Args:
        embeddings: BERT's (word, position, type, norm), injected; `TextEncoder.body.embeddings` or a copy of it.
        question_width: C.
        layers: number of blocks (ALBEF: 6).
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
            DecoderBlock(width, question_width, heads, inner or 4 * width, eps, dropout) for _ in range(layers)
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
            x = layer(x, mask, question_QLC, question_mask_QL, question_A, own)
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
            assert isinstance(target, DecoderBlock)
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
