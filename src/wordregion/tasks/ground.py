"""Detection as grounding (GLIP): each text is read with its image, and its phrases have boxes.

Shape letters: T texts, L tokens, X boxes, P places that answer for a box.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wordregion.assign import atss, centre_targets
from wordregion.errors import UsageError
from wordregion.models.grounder import Grounder
from wordregion.nn.anchors import make_anchors, to_pixels
from wordregion.nn.pyramid import LEVEL_STRIDES, level_sizes
from wordregion.objectives.ground import Boxes, Centre, GroundObjective, GroundScene, Words
from wordregion.schema import Batch
from wordregion.tasks.image_tokens import is_frozen
from wordregion.tasks.protocol import StepOutput


@dataclass(frozen=True)
class Ground:
    """Settings of `GroundTask`.

    Attributes:
        objectives: what to learn; the loss is their sum.
    """

    objectives: tuple[GroundObjective, ...] = (Words(), Boxes(), Centre())

    def __post_init__(self) -> None:
        if not self.objectives:
            raise UsageError("Ground: objectives is empty. Give at least one, for example (Words(), Boxes()).")

    def build(self, model: Grounder) -> "GroundTask":
        """The trainable task around a model."""
        return GroundTask(model, self)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Places that answer for a box: text, number, box (X index), anchor and box in pixels, how central (0 to 1)."""

    pair: Tensor
    place: Tensor
    owner: Tensor
    anchor: Tensor
    box: Tensor
    centre: Tensor


class GroundTask(nn.Module):
    """The model with its losses; one forward a micro-batch. A text without boxes teaches what is not in its image."""

    def __init__(self, model: Grounder, settings: Ground) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def train(self, mode: bool = True) -> "GroundTask":
        """Switches the model; parts of it that are not trained predict, without dropout or drop path."""
        super().train(mode)
        for part in self.model.children():
            if is_frozen(part):
                part.eval()
        return self

    def counts(self, batch: Batch) -> Tensor:
        """(2,) places that answer for a box in a micro-batch, and the sum of how central they are."""
        assigned = assign(batch)
        return torch.stack([torch.tensor(float(len(assigned.place))), assigned.centre.sum().cpu()])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Losses of one micro-batch, normalised by `totals` = counts of the whole step over the number of ranks."""
        assigned = assign(batch)
        totals = totals.to(batch.image.device)
        length = batch.token_ids.shape[1]
        spans = batch.token_mask.new_zeros(0, length) if batch.grounding_tokens is None else batch.grounding_tokens
        scene = GroundScene(
            grounded=self.model(batch.image, batch.token_ids, batch.token_mask, batch.text_image),
            token_mask=batch.token_mask,
            pair=assigned.pair,
            place=assigned.place,
            tokens=spans[batch.box_grounding[assigned.owner]],
            anchor=assigned.anchor,
            box=assigned.box,
            centre=assigned.centre,
            total_places=totals[0],
            total_centre=totals[1],
        )
        losses = {name: loss for objective in self.settings.objectives for name, loss in objective(scene).items()}
        loss = torch.stack(list(losses.values())).sum()
        return StepOutput(loss, {name: value.detach() for name, value in losses.items()})

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    def after_step(self) -> None:
        """Nothing to do after the optimiser."""

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing."""
        return self.model.blocks()


def assign(batch: Batch) -> Assignment:
    """ATSS for each text of a batch; a function of boxes and image sizes alone."""
    height, width = batch.image.shape[2:]
    levels = make_anchors(level_sizes(height, width), LEVEL_STRIDES, batch.image.device)
    anchors = torch.cat(levels)
    text_X = batch.grounding_text[batch.box_grounding]
    size_I2 = batch.image.new_tensor([[height, width]]).float().expand(len(batch.image), 2)
    size_I2 = size_I2 if batch.image_size is None else batch.image_size.float()
    box_X4 = to_pixels(batch.box.float(), size_I2[batch.text_image[text_X]])
    pairs, places, owners = [text_X[:0]], [text_X[:0]], [text_X[:0]]
    for text in text_X.unique():
        own = torch.nonzero(text_X == text).flatten()
        box_A = atss(levels, box_X4[own])
        place = torch.nonzero(box_A >= 0).flatten()
        places.append(place)
        owners.append(own[box_A[place]])
        pairs.append(text.expand(len(place)))
    pair, place, owner = torch.cat(pairs), torch.cat(places), torch.cat(owners)
    anchor, box = anchors[place], box_X4[owner]
    return Assignment(pair, place, owner, anchor, box, centre_targets(anchor, box))
