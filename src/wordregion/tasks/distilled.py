"""Fine-tuning with momentum distillation (ALBEF section 5): what answering and classifying have in common."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.tasks.image_tokens import ImageTokens, is_frozen
from wordregion.tasks.teacher import distill_weight, make_teacher, update_teacher


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """Settings of a `DistilledTask`.

    Attributes:
        momentum: of the teacher, in [0, 1].
        distill: final weight of the teacher's opinion in [0, 1] (alpha); 0 = train without a teacher.
        ramp_steps: steps over which `distill` rises linearly from 0 (ALBEF: those of the first epoch).
        keep_image_tokens: encode each image once and keep its tokens in memory, and in a folder for further runs if one
            is given. For a frozen image encoder and a transform that draws nothing, or few results (`Variants`).
    """

    momentum: float = 0.995
    distill: float = 0.4
    ramp_steps: int = 1
    keep_image_tokens: bool | Path = False

    def __post_init__(self) -> None:
        task = type(self).__name__
        for name in ("momentum", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{task}: {name}={getattr(self, name)} is outside [0, 1]. Choose a value in it.")
        if self.ramp_steps < 0:
            raise UsageError(f"{task}: ramp_steps={self.ramp_steps} is negative. Give 0 or more.")


class DistilledTask(nn.Module):
    """Student and, with distillation, its teacher: a momentum copy of the whole model, updated after each step.

    Args:
        model: the student, trained in place.
        settings: of the task.
    """

    step: Tensor

    def __init__(self, model: FusionModel, settings: Distilled) -> None:
        super().__init__()
        self.model = model
        self.teacher: FusionModel | None = make_teacher(model) if settings.distill else None  # type: ignore[assignment]
        self.settings = settings
        self.image_tokens = ImageTokens(settings.keep_image_tokens)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> "DistilledTask":
        """Switches the student; a frozen image encoder and the teacher always predict, without dropout or drop path."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        if is_frozen(self.model.vision):
            self.model.vision.eval()
        return self

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher and counts the step."""
        if self.teacher is not None:
            update_teacher(self.teacher, self.model, self.settings.momentum)
        self.step += 1

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing, of student and teacher."""
        return [*self.model.blocks(), *(self.teacher.blocks() if self.teacher is not None else ())]

    def distill_weight(self) -> float:
        """Alpha at this step: linear from 0 over `ramp_steps`, then constant."""
        return distill_weight(self.settings.distill, self.settings.ramp_steps, self.step)
