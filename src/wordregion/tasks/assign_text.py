"""Text assignment: pre-training for reasoning about two images (ALBEF section 5, NLVR2, and its code).

Each text is shown with two images: its own and another, in either order, or two others. The model says whether the text
belongs to the first image, the second, or neither. The other images are drawn from the batch by their likeness to the
text's own image.

Shape letters: T texts, I images, E shared width.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.models.fusion import FusionModel
from wordregion.schema import Batch
from wordregion.tasks.protocol import StepOutput

LIKENESS_TEMPERATURE = 0.07
FIRST, SECOND, NEITHER = 0, 1, 2


def draw_two(weights_TI: Float[Tensor, "T I"]) -> Int[Tensor, "T 2"]:
    """Two different images a row, one after the other, with probability proportional to their weights; those of weight
    zero come last. The only image, if there is no other, is drawn twice.
    """
    keys_TI = weights_TI / torch.empty_like(weights_TI).exponential_()
    drawn = keys_TI.topk(min(2, weights_TI.shape[1])).indices
    return drawn.expand(-1, 2) if drawn.shape[1] == 1 else drawn


def draw_coins(texts: int, device: torch.device) -> Float[Tensor, "T 2"]:
    """Two uniform numbers in [0, 1) a text."""
    return torch.rand(texts, 2, device=device)


@dataclass(frozen=True)
class AssignText:
    """Settings of `AssignTextTask`.

    Attributes:
        coins: (number of texts, device) to two numbers in [0, 1) a text: above 1/3, the first shows the text with its
            own image; then, above 1/2, the second puts it first. Exchangeable for tests.
        draw: weights (T, I) to two different images a row (T, 2); exchangeable for tests.
    """

    coins: Callable[[int, torch.device], Tensor] = field(default=draw_coins, repr=False)
    draw: Callable[[Tensor], Tensor] = field(default=draw_two, repr=False)

    def build(self, model: FusionModel) -> "AssignTextTask":
        """The trainable task around a model of two images with the head ``assign``."""
        return AssignTextTask(model, self)


class AssignTextTask(nn.Module):
    """The student alone: nothing is distilled here, as published. The other images come from the same micro-batch."""

    def __init__(self, model: FusionModel, settings: AssignText) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def counts(self, batch: Batch) -> Tensor:
        """(1,) texts of a micro-batch."""
        return torch.tensor([float(len(batch.token_ids))])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Three-class cross-entropy over ``totals[0]`` texts; a text without any other image does not count."""
        image = self.model.encode_image(batch.image)
        with torch.no_grad():
            weights, others = likeness(self.model.project_image(image).float(), batch)
            coins = self.settings.coins(len(weights), weights.device)
            chosen, label = assign(batch.text_image, others, coins, self.settings.draw(weights))
        counted = others > 0
        if len(batch.image) == 1:
            warnings.warn("a batch with a single image has no others: text assignment learns nothing", stacklevel=2)
        text = self.model.encode_text(batch.token_ids, batch.token_mask)
        logits = self.model.heads["assign"](self.model.fuse(text, batch.token_mask, image, chosen).cls).float()
        total = totals[0].to(logits.device)
        loss = (F.cross_entropy(logits, label, reduction="none") * counted).sum() / total
        hits = ((logits.detach().argmax(1) == label) & counted).sum() / total
        return StepOutput(loss, {"assign": loss.detach(), "assign_accuracy": hits})

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    def after_step(self) -> None:
        """Nothing moves but the student."""

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing."""
        return self.model.blocks()


def likeness(feature_IE: Float[Tensor, "I E"], batch: Batch) -> tuple[Float[Tensor, "T I"], Int[Tensor, "T"]]:
    """Weights by which other images are drawn, and how many others each text has.

    The softmax of the cosine to the text's own image over `LIKENESS_TEMPERATURE`; zero for the same picture.

    Args:
        feature_IE: unit vectors of the images.
        batch: links texts to images; equal ``image_key`` = the same picture.
    """
    own_T = batch.text_image
    other_TI: Bool[Tensor, "T I"] = batch.image_key[own_T, None] != batch.image_key[None]
    weights_TI = (feature_IE[own_T] @ feature_IE.T / LIKENESS_TEMPERATURE).softmax(1)
    return weights_TI * other_TI, other_TI.sum(1)


def assign(
    own_T: Int[Tensor, "T"],
    others_T: Int[Tensor, "T"],
    coins_T2: Float[Tensor, "T 2"],
    drawn_T2: Int[Tensor, "T 2"],
) -> tuple[Int[Tensor, "T 2"], Int[Tensor, "T"]]:
    """First and second image of each text, and its class: 0 first, 1 second, 2 neither.

    Args:
        own_T: the text's own image.
        others_T: how many other images there are for it; with a single one it is always shown with its own.
        coins_T2: see `AssignText`.
        drawn_T2: two other images of each text.
    """
    belongs_T = (coins_T2[:, 0] > 1 / 3) | (others_T < 2)
    first_T = coins_T2[:, 1] > 0.5
    label_T = torch.where(belongs_T, torch.where(first_T, FIRST, SECOND), NEITHER)
    other_T = drawn_T2[:, 0]
    own_first = torch.stack([own_T, other_T], 1)
    chosen_T2 = torch.where((label_T == SECOND)[:, None], own_first.flip(1), own_first)
    return torch.where((label_T == NEITHER)[:, None], drawn_T2, chosen_T2), label_T
