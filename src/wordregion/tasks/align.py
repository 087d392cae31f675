"""Pre-training by alignment (ALBEF): encode once, share a scene among the objectives, keep teacher and queue.

Shape letters as in `objectives.scene`.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordregion.distributed import comm
from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives import AlignScene, Contrast, MaskedWords, Match, Objective
from wordregion.objectives.identity import view_ids, wording_ids
from wordregion.schema import Batch
from wordregion.tasks.image_tokens import ImageTokens, is_frozen
from wordregion.tasks.protocol import StepOutput
from wordregion.tasks.queue import FeatureQueue
from wordregion.tasks.teacher import distill_weight, make_teacher, update_teacher
from wordregion.tasks.text_states import TextStates


@dataclass(frozen=True)
class Align:
    """Settings of `AlignTask`.

    Attributes:
        objectives: what to learn; the loss is their sum.
        first_alone: steps at the start in which only the first objective is trained, or the first few. Matching mines
            its negatives by the contrast, and has nothing to learn from those of an untrained one.
        first: how many objectives these steps train.
        fuse_every: objectives that need the fusion encoder are trained in every so-manieth step alone, from the first
            on; for a model whose fusion is the dearest part of a step.
        momentum: of the teacher, in [0, 1]; None = no teacher: the keys are the student's own, with gradient (X-VLM).
        queue_size: slots of the feature queue; 0 = none.
        distill: final weight of the teacher's opinion in [0, 1] (alpha).
        ramp_steps: steps over which `distill` rises linearly from 0 (ALBEF: those of the first epoch).
        temperature_range: the learnable temperature is kept within.
        keep_image_tokens: encode each image once and keep its tokens in memory, and in a folder for further runs if one
            is given. For a frozen image encoder and a transform that draws nothing, or few results (`Variants`).
        keep_text_states: encode each text, masked copies aside, once and keep its states in memory. For a frozen text
            encoder.
        summary_dropout: rate in [0, 1) at which the student's contrast, and the negatives that it chooses for `Match`,
            miss channels of an image's summary; for frozen encoders, whose summaries it would learn by heart.
    """

    objectives: tuple[Objective, ...] = (Contrast(), Match(), MaskedWords())
    first_alone: int = 0
    first: int = 1
    fuse_every: int = 1
    momentum: float | None = 0.995
    queue_size: int = 65536
    distill: float = 0.4
    ramp_steps: int = 1
    temperature_range: tuple[float, float] = (0.001, 0.5)
    keep_image_tokens: bool | Path = False
    keep_text_states: bool = False
    summary_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.objectives:
            raise UsageError("Align: objectives is empty. Give at least one, for example (Contrast(),).")
        for name in ("momentum", "distill"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise UsageError(f"Align: {name}={getattr(self, name)} is outside [0, 1]. Choose a value in it.")
        if not 0 <= self.summary_dropout < 1:
            raise UsageError(f"Align: summary_dropout={self.summary_dropout} is outside [0, 1). Choose a value in it.")
        if self.momentum is None and (self.distill or self.queue_size):
            raise UsageError("Align: momentum=None has no teacher to distil or queue. Set distill=0 and queue_size=0.")
        if self.queue_size and any(isinstance(o, Contrast) and o.region_weight is not None for o in self.objectives):
            raise UsageError(
                "Align: the queue doesn't know its regions. Set queue_size=0 for Contrast(region_weight=...)."
            )
        if min(self.queue_size, self.ramp_steps, self.first_alone) < 0:
            raise UsageError("Align: queue_size, ramp_steps and first_alone must be 0 or more. Correct the recipe.")
        if self.first < 1:
            raise UsageError(f"Align: first={self.first} is below 1. Give how many objectives are trained at first.")
        if self.fuse_every < 1:
            raise UsageError(f"Align: fuse_every={self.fuse_every} is below 1. Give 1 for every step.")
        if self.fuse_every > 1 and all(objective.needs == "fused" for objective in self.objectives[: self.first]):
            raise UsageError(
                f"Align: fuse_every={self.fuse_every} leaves nothing to train in the other steps. Set it to 1, or "
                "begin with an objective that doesn't fuse, such as Contrast()."
            )

    def build(self, model: FusionModel) -> "AlignTask":
        """The trainable task around a model."""
        return AlignTask(model, self)


class AlignTask(nn.Module):
    """Student, teacher (if any) and queue; one forward a micro-batch.

    Each image is encoded once; the regions that texts describe (`Batch.regions`) are made of its tokens.

    The teacher and the queue are updated after the optimiser step. As the teacher starts as a copy of the student, this
    gives the same features at every step as the original, which updates its teacher at the start of a forward.
    """

    step: Tensor

    def __init__(self, model: FusionModel, settings: Align) -> None:
        super().__init__()
        self.model = model
        self.teacher: FusionModel | None = None if settings.momentum is None else make_teacher(model)  # type: ignore[assignment]
        self.queue = FeatureQueue(settings.queue_size, model.image_proj.out_features)
        self.settings = settings
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._features: list[tuple[Tensor, Tensor, Tensor]] = []
        self._image_tokens = ImageTokens(settings.keep_image_tokens)
        self._text_states = TextStates(settings.keep_text_states)

    def train(self, mode: bool = True) -> "AlignTask":
        """Switches the student; its frozen encoders and the teacher always predict, without dropout or drop path."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        for encoder in (self.model.vision, self.model.text):
            if is_frozen(encoder):
                encoder.eval()
        return self

    def counts(self, batch: Batch) -> Tensor:
        """(6,) texts, masked positions, words that a mask may hit, negatives, regions, and groundings with boxes."""
        masked = 0 if batch.labels is None else int((batch.labels != -100).sum())
        words = 0 if batch.words is None else int(batch.words.sum())
        negatives = 0 if batch.negative_text is None else len(batch.negative_text)
        regions = len(batch.regions().text)
        phrases = len(batch.box_grounding.unique())
        counts = (len(batch.token_ids), masked, words, negatives, regions, phrases)
        return torch.tensor([float(count) for count in counts])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Losses of one micro-batch, normalised by `totals` = counts of the whole step over the number of ranks."""
        scene = self._scene(batch, totals.to(batch.image.device))
        now, joined, wanted = scene.step, self.objectives(), []
        for objective, start in joined:
            scene.step = now - start
            wanted.append(objective.pairs(scene))
        asked = [pairs for pairs in wanted if pairs is not None]
        parts: Iterator[Fused] = iter(())
        if asked:
            row = torch.cat([pairs.row for pairs in asked])
            image = torch.cat([pairs.image for pairs in asked])
            fused = self.model.fuse(
                scene.text[row],
                scene.text_mask[row],
                scene.image,
                image,
                image_mask_IN=scene.image_mask,
                shared=scene.image_shared,
            )
            parts = iter(fused.split([len(pairs.row) for pairs in asked]))
        metrics: dict[str, Tensor] = {}
        for (objective, start), pairs in zip(joined, wanted, strict=True):
            scene.step = now - start
            metrics |= objective(self.model, scene, None if pairs is None else next(parts))
        loss = torch.stack([value for name, value in metrics.items() if not name.endswith("_accuracy")]).sum()
        shown = {name: value.detach() for name, value in metrics.items()}
        return StepOutput(loss, shown, self._image_tokens.known(self.model, self.teacher, batch))

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher, fills the queue, keeps the temperature in range, counts the step."""
        if self.teacher is not None and self.settings.momentum is not None:
            update_teacher(self.teacher, self.model, self.settings.momentum)
        for image, text, key_id in self._features:
            self.queue.push(image, text, key_id)
        self._features.clear()
        self.model.temperature.clamp_(*self.settings.temperature_range)
        self.step += 1

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing, of student and teacher."""
        return [*self.model.blocks(), *(self.teacher.blocks() if self.teacher is not None else ())]

    def objectives(self) -> list[tuple[Objective, int]]:
        """What is learned at this step, and since which."""
        everything, first, start = self.settings.objectives, self.settings.first, self.settings.first_alone
        step = int(self.step)  # read once: on a GPU each reading waits for it
        later = everything[first:] if step >= start else ()
        joined = [*((objective, 0) for objective in everything[:first]), *((objective, start) for objective in later)]
        due = step % self.settings.fuse_every == 0
        return [(objective, began) for objective, began in joined if due or objective.needs != "fused"]

    def distill_weight(self) -> float:
        """Alpha at this step: linear from 0 over `ramp_steps`, then constant."""
        return distill_weight(self.settings.distill, self.settings.ramp_steps, self.step)

    def _scene(self, batch: Batch, totals: Tensor) -> AlignScene:
        regions, objectives = batch.regions(), [objective for objective, _ in self.objectives()]
        if len(batch.image) == 1 and not len(regions.text) and any(isinstance(o, Match) for o in objectives):
            warnings.warn(
                "a batch with a single image has no negatives: Match trains on true pairs alone", stacklevel=2
            )
        ids, mask, negatives_at = self._texts(batch, objectives)
        texts, distill = len(batch.token_ids), self.distill_weight()
        summary_alone = all(objective.needs == "summary" for objective in objectives)
        views = self._image_tokens.views(self.model, batch, regions, summary_alone)
        text = self._text_states(self.model, ids, mask, passing=range(texts, negatives_at))
        view = batch.text_image.clone()
        view[regions.text] = torch.arange(len(batch.image), len(views.tokens), device=view.device)
        summary = F.dropout(views.tokens[:, :1], self.settings.summary_dropout, self.training)
        image_feature = self.model.project_image(summary)[view].float()
        text_feature = self.model.project_text(text[:texts], mask[:texts]).float()
        image_key = batch.image_key[batch.text_image]
        view_id, wording_id = view_ids(image_key, regions), wording_ids(image_key, batch.token_ids, batch.token_mask)
        teacher_image_feature, teacher_text_feature = image_feature, text_feature
        teacher_views, teacher_text = views, text
        if self.teacher is not None:
            with torch.no_grad():
                teach_masked = distill > 0 and any(isinstance(o, MaskedWords) for o in objectives)
                rows = slice(2 * texts if teach_masked else texts)
                teacher_views = self._image_tokens.teacher_views(self.model, self.teacher, batch, regions, views)
                teacher_text = (
                    text[rows] if is_frozen(self.model.text) else self.teacher.encode_text(ids[rows], mask[rows])
                )
                teacher_image_feature = self.teacher.project_image(teacher_views.tokens)[view].float()
                teacher_text_feature = self.teacher.project_text(teacher_text[:texts], mask[:texts]).float()
        keys = [comm.gather(part) for part in (teacher_image_feature, teacher_text_feature)]
        is_region = view >= len(batch.image)
        known = torch.stack([view_id, wording_id, is_region.to(view_id.dtype)], dim=1)
        key_view_id, key_wording_id, key_is_region = comm.gather_no_grad(known).unbind(1)
        self._features.append((keys[0].detach(), keys[1].detach(), key_view_id))

        @cache
        def teacher_masked_states() -> Tensor:
            assert self.teacher is not None
            masked = slice(texts, 2 * texts)
            return self.teacher.fuse(
                teacher_text[masked],
                mask[masked],
                teacher_views.tokens,
                view,
                image_mask_IN=teacher_views.mask,
                shared=teacher_views.shared,
            ).hidden

        return AlignScene(
            batch=batch,
            image=views.tokens,
            image_mask=views.mask,
            image_shared=views.shared,
            view=view,
            regions=regions,
            text=text,
            text_mask=mask,
            image_feature=image_feature,
            text_feature=text_feature,
            teacher_image_feature=teacher_image_feature,
            teacher_text_feature=teacher_text_feature,
            image_keys=torch.cat([keys[0], self.queue.image]),
            text_keys=torch.cat([keys[1], self.queue.text]),
            view_id=view_id,
            wording_id=wording_id,
            key_view_id=torch.cat([key_view_id, self.queue.key_id]),
            key_wording_id=torch.cat([key_wording_id, torch.full_like(self.queue.key_id, -1)]),
            is_region=is_region,
            key_is_region=torch.cat([key_is_region, torch.zeros_like(self.queue.key_id)]).bool(),
            offset=comm.rank() * texts,
            temperature=self.model.temperature,
            distill=distill,
            step=int(self.step),
            total_texts=totals[0],
            total_masked=totals[1],
            total_words=totals[2],
            total_negatives=totals[3],
            total_regions=totals[4],
            total_phrases=totals[5],
            teacher_masked_states=teacher_masked_states,
            teacher=self.teacher,
            model=self.model,
            negatives_at=negatives_at,
        )

    def _texts(self, batch: Batch, objectives: Sequence[Objective]) -> tuple[Tensor, Tensor, int]:
        """Rows to encode: the texts, their masked copies and negatives if wanted; and where the negatives begin."""
        ids, mask = batch.token_ids, batch.token_mask
        if any(objective.wants_masked for objective in objectives):
            if batch.masked_ids is None:
                raise UsageError("the recipe masks no words but an objective needs it. Give its Collator a Masking.")
            ids, mask = torch.cat([ids, batch.masked_ids]), torch.cat([mask, mask])
        negatives_at = len(ids)
        if any(isinstance(o, Match) and o.generated for o in objectives):
            if batch.negative_ids is None or batch.negative_mask is None:
                raise UsageError("Match wants generated negatives, the batch has none. Give its Collator negatives=N.")
            ids, mask = torch.cat([ids, batch.negative_ids]), torch.cat([mask, batch.negative_mask])
        return ids, mask, negatives_at
