"""Image-text matching with in-batch negatives (ITM), and with generated ones beside them (VL-Match's FG-ITM).

Shape letters: T texts, F generated false texts, P pairs.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.mining import Draw, draw_one, hard_negatives
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives.scene import AlignScene, Losses, Needs, Pairs, check_region_weight, row_range


@dataclass(frozen=True)
class Match:
    """Does this text describe this image, or region? One true pair and two hard negatives for each text.

    The negatives are mined in the micro-batch of each process, as published. A text without any possible negative (a
    batch of one image) trains on its true pair alone.

    Generated false texts of a text (`Batch.negative_ids`) stand beside its image as further negatives. All negatives of
    a text together weigh what its two hard ones weigh without them, so that the classes stay balanced as published,
    however many there are.

    Attributes:
        weight: factor of the loss.
        hardness: how much the negatives resemble the truth: they are drawn from the softmax of hardness x ITC logits; 1
            as published, 0 = uniformly. Small data learns nothing from negatives that its contrast can't tell apart.
        ramp_steps: steps over which the hardness rises linearly from 0: easy negatives first. 0 as published.
        generated: most generated false texts of each text to use; 0 = ITM, otherwise FG-ITM.
        draw: how negatives are drawn from row weights; exchangeable for tests.
        region_weight: None = regions stand among all views and count as much (X-VLM). A number: negatives are of the
            same kind, regions for regions and images for images, and a region's text counts this much beside an
            image's. What is easily told apart teaches little: among all views most negatives of a caption are regions.
    """

    weight: float = 1.0
    hardness: float = 1.0
    ramp_steps: int = 0
    generated: int = 0
    draw: Draw = field(default=draw_one, repr=False)
    region_weight: float | None = None
    wants_masked = False
    needs: ClassVar[Needs] = "fused"

    def __post_init__(self) -> None:
        if not 0 <= self.hardness <= 1:
            raise UsageError(f"Match: hardness={self.hardness} is outside [0, 1]. 1 is as published.")
        for name in ("generated", "ramp_steps"):
            if getattr(self, name) < 0:
                raise UsageError(f"Match: {name}={getattr(self, name)} is below 0. Give 0 for none.")
        check_region_weight("Match", self.region_weight)

    def pairs(self, scene: AlignScene) -> Pairs:
        """Positives; then (hard image, text); then (image, hard text); then (image, generated text)."""
        own = row_range(0, scene.texts, scene.text)
        image_of = scene.view
        hardness = self.hardness * (min(1.0, scene.step / self.ramp_steps) if self.ramp_steps else 1.0)
        never = self._never(scene)
        bad_image, _ = hard_negatives(scene.local(scene.text_to_image), never, self.draw, hardness)
        bad_text, _ = hard_negatives(scene.local(scene.image_to_text), never, self.draw, hardness)
        row, image = [own, own, bad_text], [image_of, image_of[bad_image], image_of]
        if self.generated:
            text, number = self._generated(scene)
            row.append(scene.negatives_at + number)
            image.append(image_of[text])
        return Pairs(row=torch.cat(row), image=torch.cat(image))

    def __call__(self, model: FusionModel, scene: AlignScene, fused: Fused | None) -> Losses:
        """Two-class cross-entropy over 3 T + F pairs; class 1 = match."""
        assert fused is not None
        logits = model.heads["match"](fused.cls).float()
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        labels[: scene.texts] = 1
        counted = (~self._never(scene)).any(1).repeat(3)
        counted[: scene.texts] = True
        each, texts = scene.weights(self.region_weight)
        losses = F.cross_entropy(logits, labels, reduction="none")
        right = logits.detach().argmax(1) == labels
        mined = 3 * scene.texts
        hits = {"match_accuracy": (right[:mined] & counted).sum() / (3 * scene.total_texts)}
        weight = counted * each.repeat(3)
        if self.generated:
            text, _ = self._generated(scene)
            share = each * self._share(text, counted[-scene.texts :])
            weight = torch.cat([each, counted[scene.texts :] * share.repeat(2), share[text]])
            hits["generated_accuracy"] = right[mined:].sum() / scene.total_negatives.clamp(min=1e-12)
        return {"match": self.weight * (losses * weight).sum() / (3 * texts), **hits}

    def _never(self, scene: AlignScene) -> Tensor:
        """(T, T) True where one is no negative of the other."""
        return scene.same if self.region_weight is None else scene.same | scene.local(scene.other_kind)

    def _generated(self, scene: AlignScene) -> tuple[Tensor, Tensor]:
        """(F,) true text and number of the false texts to use: the first `generated` of each true one."""
        text = scene.batch.negative_text
        assert text is not None
        number = row_range(0, len(text), text)
        first = torch.searchsorted(text, text)
        used = number - first < self.generated
        return text[used], number[used]

    @staticmethod
    def _share(text_F: Tensor, mined_T: Tensor) -> Tensor:
        """(T,) weight of each negative of a text: all together weigh 2."""
        count = 2 * mined_T + torch.bincount(text_F, minlength=len(mined_T))
        return 2 / count.clamp(min=1)
