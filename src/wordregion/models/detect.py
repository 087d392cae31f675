"""From a detector's outputs to boxes: scores of labels, candidates, non-maximum suppression (GLIP's code).

Pure functions. Shape letters: T pairs of an image and a text, A places, L tokens, K labels, Q candidates, D
detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms

from wordregion.models.finite import require_finite
from wordregion.nn.anchor_head import Grounded
from wordregion.nn.anchors import beyond_last, decode_boxes, make_anchors, to_unit
from wordregion.nn.pyramid import LEVEL_STRIDES


@dataclass(frozen=True)
class Thresholds:
    """What is kept.

    Attributes:
        score: a place is a candidate for a label whose words fit it with more than this, in [0, 1].
        level_most: candidates of each level.
        overlap: of two boxes of a label with an IoU above this, the lower one goes.
        most: detections of an image (more only where the last are equal).
    """

    score: float = 0.05
    level_most: int = 1000
    overlap: float = 0.6
    most: int = 100


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes found for one text in its image, in order of places.

    Attributes:
        box: (D, 4) xyxy in pixels, last row and column included.
        score: (D,) in [0, 1]: root of the words' fit times the centre's.
        label: (D,) row of the labels' token map.
        height: of the picture in pixels.
        width: of the picture in pixels.
    """

    box: Float[Tensor, "D 4"]
    score: Float[Tensor, "D"]
    label: Int[Tensor, "D"]
    height: int
    width: int

    def unit_box(self) -> Float[Tensor, "D 4"]:
        """Boxes in [0, 1] of the picture."""
        return to_unit(self.box, self.height, self.width)


def label_scores(logits_AL: Float[Tensor, "*A L"], tokens_KL: Bool[Tensor, "K L"]) -> Float[Tensor, "*A K"]:
    """How well each place fits each label: the mean over the label's tokens, in [0, 1]; 0 for one without tokens."""
    weight_KL = tokens_KL.to(logits_AL.dtype)
    return logits_AL.sigmoid() @ (weight_KL / weight_KL.sum(1, keepdim=True).clamp(min=1)).T


def detect(
    grounded: Grounded,
    tokens: Sequence[Bool[Tensor, "_ L"]],
    sizes: Sequence[tuple[int, int]],
    keep: Thresholds = Thresholds(),
) -> list[Detections]:
    """The detections of each text.

    Args:
        grounded: outputs for T texts.
        tokens: of each text, True at the tokens of each of its labels.
        sizes: height and width in pixels of each text's picture, without padding.
        keep: thresholds.

    Raises:
        UsageError: if an output is not finite: NaN is above no threshold, so nothing would be found.
    """
    for output in (grounded.logits, grounded.centre, grounded.delta):
        require_finite(output, "outputs")
    anchors = make_anchors(grounded.sizes, LEVEL_STRIDES, grounded.logits.device)
    counts = [len(level) for level in anchors]
    found = []
    for row, (tokens_KL, (height, width)) in enumerate(zip(tokens, sizes, strict=True)):
        levels = zip(
            label_scores(grounded.logits[row].float(), tokens_KL).split(counts),
            grounded.centre[row].float().sigmoid().split(counts),
            grounded.delta[row].float().split(counts),
            anchors,
            strict=True,
        )
        parts = [_candidates(*level, keep) for level in levels]
        box, score, label = (torch.cat(column) for column in zip(*parts, strict=True))
        edge = torch.tensor([width - 1, height - 1], device=box.device, dtype=box.dtype).repeat(2)
        box = box.clamp(min=0).minimum(edge)
        kept = suppress(box, score, label, keep.overlap)
        if len(kept) > keep.most > 0:
            last = score[kept].topk(keep.most).values[-1]
            kept = kept[score[kept] >= last]
        found.append(Detections(box[kept], score[kept], label[kept], height, width))
    return found


def suppress(
    box_Q4: Float[Tensor, "Q 4"], score_Q: Float[Tensor, "Q"], label_Q: Int[Tensor, "Q"], overlap: float
) -> Int[Tensor, "D"]:
    """Non-maximum suppression within each label, last row and column included; survivors in ascending order."""
    kept = []
    for label in label_Q.unique():
        own = torch.nonzero(label_Q == label).flatten()
        kept.append(own[nms(beyond_last(box_Q4[own]), score_Q[own], overlap)])
    return torch.cat(kept).sort().values if kept else torch.zeros(0, dtype=torch.long, device=box_Q4.device)


def _candidates(
    fit_AK: Tensor, centre_A: Tensor, delta_A4: Tensor, anchor_A4: Tensor, keep: Thresholds
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of one level, best first."""
    place, label = torch.nonzero(fit_AK > keep.score, as_tuple=True)
    score = fit_AK[place, label] * centre_A[place]
    score, order = score.topk(min(keep.level_most, len(score)))
    place, label = place[order], label[order]
    return decode_boxes(delta_A4[place], anchor_A4[place]), score.sqrt(), label
