"""The vocabulary shared by all data, models and objectives.

Every supervision signal is a *grounding*: these characters of this text describe these boxes of this image.
Boxes are ``(x0, y0, x1, y1)`` in [0, 1] of the image (its full width and height are 1), ``x0 < x1``, ``y0 < y1``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from torch import Tensor

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Grounding:
    """These characters of a text describe these boxes of an image.

    Attributes:
        text: index into ``Sample.texts``.
        boxes: xyxy in [0, 1]; empty = the whole image.
        span: ``(begin, end)`` character offsets into the text, end exclusive; None = the whole text.
        image: index into ``Sample.images``.
    """

    text: int
    boxes: tuple[Box, ...] = ()
    span: tuple[int, int] | None = None
    image: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What every data source produces: images, texts, and which part of which text describes what.

    Attributes:
        id: stable name of the record in its source, used in reports.
        images: decoded RGB pictures; after a transform, float tensors (3, height, width), normalised.
        texts: captions, region phrases, questions, prompts.
        groundings: a caption of the whole image is ``Grounding(text=i)``.
        target: labels of a task by name, for example ``{"label": 2}`` or ``{"answers": {"red": 0.7, "pink": 0.3}}``.
        negatives: false texts made from a true one: index of the true text -> indices of the false ones, which no
            grounding names.
    """

    id: str
    images: tuple[Image | Tensor, ...]
    texts: tuple[str, ...]
    groundings: tuple[Grounding, ...] = ()
    target: Mapping[str, Any] = field(default_factory=dict)
    negatives: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def captions(self) -> tuple[int, ...]:
        """Indices of the texts that describe a whole image."""
        return tuple(g.text for g in self.groundings if g.span is None and not g.boxes)


@runtime_checkable
class Dataset(Protocol):
    """A map-style source of samples. Indexing decodes the image and raises `DataError` for a broken record."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def where(self, index: int) -> str:
        """File and line (or member) of a record, for reports."""
        ...


@dataclass(frozen=True, slots=True)
class Regions:
    """The texts of a batch that describe a region of their image. Letters: R such texts.

    Attributes:
        text: (R,) ascending.
        image: (R,) image of each.
        box: (R, 4) xyxy in [0, 1]; the box around all boxes of the text.
    """

    text: Int[Tensor, "R"]
    image: Int[Tensor, "R"]
    box: Float[Tensor, "R 4"]


@dataclass(kw_only=True)
class Batch:
    """Samples as flat tensors linked by indices; nothing is nested.

    Letters: I images, T texts, L tokens, G groundings, X boxes, F false texts.

    Attributes:
        image: (I, 3, H, W) normalised pixels; NaN where they were left out, since the task needs them no more.
        image_key: (I,) identity of each image in its data set: equal keys are the same picture.
        image_size: (I, 2) height and width of each picture in pixels; right of it and below, `image` is zero padding.
            Boxes are in [0, 1] of the picture. None = every picture fills H x W.
        token_ids: (T, L) token ids, padded.
        token_mask: (T, L) True at real tokens.
        text_image: (T,) index of the image that each text belongs to.
        masked_ids: (T, L) the corrupted copy for masked-word objectives, or None.
        labels: (T, L) original ids at the positions to predict, -100 elsewhere, or None.
        words: (T, L) True at the tokens that a mask may hit: real ones, no special ones; None without masks.
        negative_ids: (F, L) false texts, generated from the true ones, or None where the collator draws none.
        negative_mask: (F, L) True at their real tokens.
        negative_text: (F,) the true text of each, ascending.
        grounding_text: (G,) text of each grounding.
        grounding_tokens: (G, L) True at the tokens of the grounding's span (all real tokens for a whole text).
        box: (X, 4) xyxy in [0, 1].
        box_grounding: (X,) grounding of each box.
        target: further labels of a task, tensors or lists with one entry a sample.
        skipped: one line for each broken record that was replaced while this batch was made.
    """

    image: Float[Tensor, "I 3 H W"]
    image_key: Int[Tensor, "I"]
    token_ids: Int[Tensor, "T L"]
    token_mask: Bool[Tensor, "T L"]
    text_image: Int[Tensor, "T"]
    masked_ids: Int[Tensor, "T L"] | None = None
    labels: Int[Tensor, "T L"] | None = None
    words: Bool[Tensor, "T L"] | None = None
    negative_ids: Int[Tensor, "F L"] | None = None
    negative_mask: Bool[Tensor, "F L"] | None = None
    negative_text: Int[Tensor, "F"] | None = None
    image_size: Int[Tensor, "I 2"] | None = None
    grounding_text: Int[Tensor, "G"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    grounding_tokens: Bool[Tensor, "G L"] | None = None
    box: Float[Tensor, "X 4"] = field(default_factory=lambda: torch.zeros(0, 4))
    box_grounding: Int[Tensor, "X"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    target: dict[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def regions(self) -> Regions:
        """The texts that as a whole, and not by a phrase of theirs, have boxes; all others describe their image."""
        if self.grounding_tokens is None or not len(self.box):
            return Regions(self.text_image[:0], self.text_image[:0], self.box[:0])
        whole_G = self.grounding_tokens[:, 0]  # [CLS] is in no phrase
        of_whole_X = whole_G[self.box_grounding]
        box = self.box[of_whole_X]
        text, place = self.grounding_text[self.box_grounding[of_whole_X]].unique(return_inverse=True)
        place_X2 = place[:, None].expand(-1, 2)
        low = box.new_ones(len(text), 2).scatter_reduce(0, place_X2, box[:, :2], "amin")
        high = box.new_zeros(len(text), 2).scatter_reduce(0, place_X2, box[:, 2:], "amax")
        return Regions(text, self.text_image[text], torch.cat([low, high], dim=1))

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with every tensor on `device` (asynchronous where the memory is pinned)."""

        def move(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        moved = {f.name: move(getattr(self, f.name)) for f in fields(self)}
        moved["target"] = {name: move(value) for name, value in self.target.items()}
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; called by torch's DataLoader."""

        def pin(value: Any) -> Any:
            return value.pin_memory() if isinstance(value, Tensor) else value

        pinned = {f.name: pin(getattr(self, f.name)) for f in fields(self)}
        pinned["target"] = {name: pin(value) for name, value in self.target.items()}
        return replace(self, **pinned)
