"""What is already encoded in a step of image-text alignment, for all objectives to share.

Shape letters: I images, W views (the images, then regions of them), N image tokens, V image width, T texts, R text rows
(T clean; T masked, the batch's negatives where an objective wants them; texts that an objective adds), L tokens, D text
width, E shared width, K keys (gathered batch, then queue), P pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused, SharedTokens
from wordregion.schema import Batch, Regions


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which text rows an objective wants fused with which images.

    Attributes:
        row: (P,) rows of `AlignScene.text`.
        image: (P,) rows of `AlignScene.image`: views.
    """

    row: Tensor
    image: Tensor


Losses = dict[str, Tensor]
Needs = Literal["summary", "tokens", "fused"]
"""What an objective looks at of an image: the first token, all tokens, or what the fusion encoder makes of them."""


@runtime_checkable
class Objective(Protocol):
    """One supervision signal. It first says what it wants fused; all requests run in one pass; then it is called.

    Returned losses are normalised by the totals of the step, so that they add up over micro-batches and average over
    ranks. Names that end in ``_accuracy`` are reported and not optimised.
    """

    @property
    def wants_masked(self) -> bool:
        """Whether the masked copy of the texts must be encoded."""
        ...

    @property
    def needs(self) -> Needs:
        """What it looks at of an image."""
        ...

    def pairs(self, scene: "AlignScene") -> Pairs | None:
        """The pairs to fuse; None unless it needs them "fused"."""
        ...

    def __call__(self, model: FusionModel, scene: "AlignScene", fused: Fused | None) -> Losses:
        """The losses, given the fused states of the pairs asked for."""
        ...


@dataclass
class AlignScene:
    """Encodings of one micro-batch by the student and its teacher.

    Attributes:
        batch: where it comes from.
        image: (W, N, V) student's image tokens: of the images, then of the regions that texts describe.
        image_mask: (W, N) True where a text about the view may look, or None without regions.
        image_shared: which views have the tokens of another, or None.
        view: (T,) row of `image` that each text describes.
        regions: the texts that describe a region.
        text: (R, L, D) student's text states: T clean rows, then T masked rows if encoded, then the batch's
            negatives if encoded, then what `add_texts` added.
        text_mask: (R, L) True at real tokens.
        image_feature: (T, E) the student's unit vector of each text's view.
        text_feature: (T, E) the student's unit vectors.
        teacher_image_feature: (T, E) the teacher's, without gradient; the student's where there is no teacher.
        teacher_text_feature: (T, E) likewise.
        image_keys: (K, E) the teacher's vectors of all ranks' views, then the queue. Without a teacher the student's,
            with gradient.
        text_keys: (K, E) likewise for texts.
        view_id: (T,) identity of each text's view.
        wording_id: (T,) identity of each text's words and image.
        key_view_id: (K,) identity of each key's view; negative where unknown.
        key_wording_id: (K,) of each key's words and image; -1 where unknown.
        is_region: (T,) True where a text describes a region.
        key_is_region: (K,) True where a key is a region's, False for all of the queue.
        offset: column of the first text of this rank among the keys.
        temperature: () learnable softmax temperature.
        distill: weight of the teacher's opinion in [0, 1].
        step: optimiser steps that the objective has had before this one.
        total_texts: () texts of the step over micro-batches and ranks, divided by the number of ranks.
        total_masked: () masked positions, likewise.
        total_words: () words that a mask may hit, likewise.
        total_negatives: () negatives of the batch, likewise.
        total_regions: () texts that describe a region, likewise.
        total_phrases: () groundings that have boxes, likewise.
        teacher_masked_states: gives the teacher's fused states (T, L, D) of the masked texts; called once if at all.
        teacher: the teacher, for its heads, or None.
        model: the student.
        negatives_at: first row of the batch's negatives.
        kept: what an objective keeps between its `pairs` and its call, by objective.
    """

    batch: Batch
    image: Tensor
    image_mask: Tensor | None
    image_shared: SharedTokens | None
    view: Tensor
    regions: Regions
    text: Tensor
    text_mask: Tensor
    image_feature: Tensor
    text_feature: Tensor
    teacher_image_feature: Tensor
    teacher_text_feature: Tensor
    image_keys: Tensor
    text_keys: Tensor
    view_id: Tensor
    wording_id: Tensor
    key_view_id: Tensor
    key_wording_id: Tensor
    is_region: Tensor
    key_is_region: Tensor
    offset: int
    temperature: Tensor
    distill: float
    step: int
    total_texts: Tensor
    total_masked: Tensor
    total_words: Tensor
    total_negatives: Tensor
    total_regions: Tensor
    total_phrases: Tensor
    teacher_masked_states: Callable[[], Tensor]
    teacher: FusionModel | None
    model: FusionModel
    negatives_at: int
    kept: dict[Any, Any] = field(default_factory=dict)

    def add_texts(self, ids_TL: Tensor, mask_TL: Tensor) -> Tensor:
        """Encodes further texts, as long as the batch's, by the student; their rows."""
        first = len(self.text)
        self.text = torch.cat([self.text, self.model.encode_text(ids_TL, mask_TL)])
        self.text_mask = torch.cat([self.text_mask, mask_TL])
        return row_range(first, len(ids_TL), ids_TL)

    @property
    def texts(self) -> int:
        """T."""
        return self.batch.token_ids.shape[0]

    @cached_property
    def image_to_text(self) -> Tensor:
        """(T, K) student image against teacher texts, over the temperature."""
        return self.image_feature @ self.text_keys.T / self.temperature

    @cached_property
    def text_to_image(self) -> Tensor:
        """(T, K) student text against teacher images, over the temperature."""
        return self.text_feature @ self.image_keys.T / self.temperature

    @cached_property
    def same_as_key(self) -> Tensor:
        """(T, K) True where a key describes the same as a text: the same picture; of regions, the same box or words."""
        same_view = self.view_id[:, None] == self.key_view_id[None, :]
        return same_view | (self.wording_id[:, None] == self.key_wording_id[None, :])

    @cached_property
    def same(self) -> Tensor:
        """(T, T) the same for the texts of this micro-batch among each other."""
        return self.local(self.same_as_key)

    @cached_property
    def other_kind(self) -> Tensor:
        """(T, K) True where one of text and key describes a region, the other a whole image."""
        return self.is_region[:, None] != self.key_is_region[None, :]

    def weights(self, region_weight: float | None) -> tuple[Tensor, Tensor]:
        """(T,) weight of each text: `region_weight` of a region's (None = 1), 1 of an image's; and their total.

        The total is () over the step's micro-batches and ranks, divided by the number of ranks.
        """
        if region_weight is None:
            return torch.ones_like(self.is_region, dtype=torch.float32), self.total_texts
        weight = torch.where(self.is_region, region_weight, 1.0)
        return weight, (self.total_texts + (region_weight - 1) * self.total_regions).clamp(min=1e-12)

    def local(self, logits_TK: Tensor) -> Tensor:
        """(T, T) the columns of this micro-batch's own texts."""
        return logits_TK[:, self.offset : self.offset + self.texts]


def row_range(start: int, count: int, like: Tensor) -> Tensor:
    """``start .. start + count - 1`` on the device of `like`."""
    return torch.arange(start, start + count, device=like.device)


def check_region_weight(objective: str, region_weight: float | None) -> None:
    """Checks an objective's setting of that name.

    Raises:
        UsageError: if it is below 0.
    """
    if region_weight is not None and region_weight < 0:
        raise UsageError(f"{objective}: region_weight={region_weight} is below 0. Give 0 or more, or None.")
