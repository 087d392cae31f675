"""Pre-training by alignment (ALBEF): encode once, share a scene among the objectives, keep teacher and queue.

Shape letters as in `objectives.scene`.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from wordregion.distributed import comm
from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives import AlignScene, Contrast, MaskedWords, Match, Objective
from wordregion.schema import Batch
from wordregion.tasks.image_tokens import ImageTokens, is_frozen
from wordregion.tasks.protocol import StepOutput
from wordregion.tasks.queue import FeatureQueue
from wordregion.tasks.teacher import distill_weight, make_teacher, update_teacher


@dataclass(frozen=True)
class Align:
    """Settings of `AlignTask`.

    Attributes:
        objectives: what to learn; the loss is their sum.
        first_alone: steps at the start in which only the first objective is trained. Matching mines its negatives by
            the contrast, and has nothing to learn from those of an untrained one.
        momentum: of the teacher, in [0, 1].
        queue_size: slots of the feature queue; 0 = none.
        distill: final weight of the teacher's opinion in [0, 1] (alpha).
        ramp_steps: steps over which `distill` rises linearly from 0 (ALBEF: those of the first epoch).
        temperature_range: the learnable temperature is kept within.
        keep_image_tokens: encode each image once and keep its tokens in memory. For a frozen image encoder and a
            transform that draws nothing.
    """

    objectives: tuple[Objective, ...] = (Contrast(), Match(), MaskedWords())
    first_alone: int = 0
    momentum: float = 0.995
    queue_size: int = 65536
    distill: float = 0.4
    ramp_steps: int = 1
    temperature_range: tuple[float, float] = (0.001, 0.5)
    keep_image_tokens: bool = False

    def __post_init__(self) -> None:
        if not self.objectives:
            raise UsageError("Align: objectives is empty. Give at least one, for example (Contrast(),).")
        for name in ("momentum", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"Align: {name}={getattr(self, name)} is outside [0, 1]. Choose a value in it.")
        if min(self.queue_size, self.ramp_steps, self.first_alone) < 0:
            raise UsageError("Align: queue_size, ramp_steps and first_alone must be 0 or more. Correct the recipe.")

    def build(self, model: FusionModel) -> "AlignTask":
        """The trainable task around a model."""
        return AlignTask(model, self)


class AlignTask(nn.Module):
    """Student, teacher and queue; one forward a micro-batch.

    The teacher and the queue are updated after the optimiser step. As the teacher starts as a copy of the student, this
    gives the same features at every step as the original, which updates its teacher at the start of a forward.
    """

    step: Tensor

    def __init__(self, model: FusionModel, settings: Align) -> None:
        super().__init__()
        self.model = model
        self.teacher: FusionModel = make_teacher(model)  # type: ignore[assignment]
        self.queue = FeatureQueue(settings.queue_size, model.image_proj.out_features)
        self.settings = settings
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._features: list[tuple[Tensor, Tensor, Tensor]] = []
        self._image_tokens = ImageTokens(settings.keep_image_tokens)

    def train(self, mode: bool = True) -> "AlignTask":
        """Switches the student; its frozen encoders and the teacher always predict, without dropout or drop path."""
        super().train(mode)
        self.teacher.eval()
        for encoder in (self.model.vision, self.model.text):
            if is_frozen(encoder):
                encoder.eval()
        return self

    def counts(self, batch: Batch) -> Tensor:
        """(4,) texts, masked positions, words that a mask may hit, and negatives of a micro-batch."""
        masked = 0 if batch.labels is None else int((batch.labels != -100).sum())
        words = 0 if batch.words is None else int(batch.words.sum())
        negatives = 0 if batch.negative_text is None else len(batch.negative_text)
        return torch.tensor([float(count) for count in (len(batch.token_ids), masked, words, negatives)])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Losses of one micro-batch, normalised by `totals` = counts of the whole step over the number of ranks."""
        objectives = self.objectives()
        scene = self._scene(batch, totals.to(batch.image.device))
        wanted = [objective.pairs(scene) for objective in objectives]
        asked = [pairs for pairs in wanted if pairs is not None]
        parts: Iterator[Fused] = iter(())
        if asked:
            row = torch.cat([pairs.row for pairs in asked])
            image = torch.cat([pairs.image for pairs in asked])
            fused = self.model.fuse(scene.text[row], scene.text_mask[row], scene.image, image)
            parts = iter(fused.split([len(pairs.row) for pairs in asked]))
        metrics: dict[str, Tensor] = {}
        for objective, pairs in zip(objectives, wanted, strict=True):
            metrics |= objective(self.model, scene, None if pairs is None else next(parts))
        loss = torch.stack([value for name, value in metrics.items() if not name.endswith("_accuracy")]).sum()
        return StepOutput(loss, {name: value.detach() for name, value in metrics.items()})

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher, fills the queue, keeps the temperature in range, counts the step."""
        update_teacher(self.teacher, self.model, self.settings.momentum)
        for image, text, key_id in self._features:
            self.queue.push(image, text, key_id)
        self._features.clear()
        self.model.temperature.clamp_(*self.settings.temperature_range)
        self.step += 1

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing, of student and teacher."""
        return [*self.model.blocks(), *self.teacher.blocks()]

    def objectives(self) -> tuple[Objective, ...]:
        """What is learned at this step."""
        return self.settings.objectives[: 1 if self.step < self.settings.first_alone else None]

    def distill_weight(self) -> float:
        """Alpha at this step: linear from 0 over `ramp_steps`, then constant."""
        return distill_weight(self.settings.distill, self.settings.ramp_steps, self.step)

    def _scene(self, batch: Batch, totals: Tensor) -> AlignScene:
        if len(batch.image) == 1 and any(isinstance(o, Match) for o in self.objectives()):
            warnings.warn(
                "a batch with a single image has no negatives: Match trains on true pairs alone", stacklevel=2
            )
        wants_masked = any(objective.wants_masked for objective in self.objectives())
        ids, mask = batch.token_ids, batch.token_mask
        if wants_masked:
            if batch.masked_ids is None:
                raise UsageError("the recipe masks no words but an objective needs it. Give its Collator a Masking.")
            ids, mask = torch.cat([ids, batch.masked_ids]), torch.cat([mask, mask])
        negatives_at = len(ids)
        if any(isinstance(o, Match) and o.generated for o in self.objectives()):
            if batch.negative_ids is None or batch.negative_mask is None:
                raise UsageError("Match wants generated negatives, the batch has none. Give its Collator negatives=N.")
            ids, mask = torch.cat([ids, batch.negative_ids]), torch.cat([mask, batch.negative_mask])
        texts = len(batch.token_ids)
        image, text = self._image_tokens.student(self.model, batch), self.model.encode_text(ids, mask)
        distill = self.distill_weight()
        with torch.no_grad():
            teach_masked = distill > 0 and any(isinstance(o, MaskedWords) for o in self.objectives())
            rows = slice(2 * texts if teach_masked else texts)
            teacher_image = self._image_tokens.teacher(self.model, self.teacher, batch, image)
            teacher_text = text[rows] if is_frozen(self.model.text) else self.teacher.encode_text(ids[rows], mask[rows])
            teacher_image_feature = self.teacher.project_image(teacher_image)[batch.text_image].float()
            teacher_text_feature = self.teacher.project_text(teacher_text[:texts], mask[:texts]).float()
            keys = [
                comm.gather_no_grad(part)
                for part in (teacher_image_feature, teacher_text_feature, batch.image_key[batch.text_image])
            ]
        self._features.append((keys[0], keys[1], keys[2]))

        @cache
        def teacher_masked_states() -> Tensor:
            masked = slice(texts, 2 * texts)
            return self.teacher.fuse(teacher_text[masked], mask[masked], teacher_image, batch.text_image).hidden

        return AlignScene(
            batch=batch,
            image=image,
            text=text,
            text_mask=mask,
            image_feature=self.model.project_image(image)[batch.text_image].float(),
            text_feature=self.model.project_text(text[:texts], mask[:texts]).float(),
            teacher_image_feature=teacher_image_feature,
            teacher_text_feature=teacher_text_feature,
            image_keys=torch.cat([keys[0], self.queue.image]),
            text_keys=torch.cat([keys[1], self.queue.text]),
            key_id=torch.cat([keys[2], self.queue.key_id]),
            offset=comm.rank() * texts,
            temperature=self.model.temperature,
            distill=distill,
            total_texts=totals[0],
            total_masked=totals[1],
            total_words=totals[2],
            total_negatives=totals[3],
            teacher_masked_states=teacher_masked_states,
            teacher=self.teacher,
            model=self.model,
            negatives_at=negatives_at,
        )
