"""Image tokens of student and teacher, encoded no oftener than needed.

Shape letters: I images, N image tokens, V image width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.nn.regions import Views, has_local_layers, pool_regions
from wordregion.schema import Batch, Regions

AT_ONCE = 32
"""Images encoded at a time where tokens are kept: a batch for small heads may exceed what an encoder should hold."""


class ImageTokens:
    """Encodes the images of a batch.

    With `keep`, every picture is encoded once and its tokens stay in memory (pictures x N x V values, on the encoder's
    device, in its precision), found again by its pixels, whichever records show it. It needs a frozen encoder, and
    saves work only where the transform draws nothing. The tokens are no part of a checkpoint: a resumed run encodes
    anew.

    Args:
        keep: whether tokens are kept.
    """

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self._kept: dict[int, Tensor] = {}

    def student(self, model: FusionModel, batch: Batch) -> Float[Tensor, "I N V"]:
        """Tokens by the student.

        Raises:
            UsageError: if tokens are kept and the student's image encoder is trained.
        """
        if not self.keep:
            return model.encode_image(batch.image)
        if not is_frozen(model.vision):
            raise UsageError("keep_image_tokens needs a frozen image encoder. Set freeze=('vision.',) in AdamW.")
        keys = [hash(image.numpy().tobytes()) for image in batch.image.cpu()]
        with torch.no_grad():
            new = list({key: row for row, key in enumerate(keys) if key not in self._kept}.values())
            for begin in range(0, len(new), AT_ONCE):
                rows = new[begin : begin + AT_ONCE]
                for row, tokens in zip(rows, model.encode_image(batch.image[rows]), strict=True):
                    self._kept[keys[row]] = tokens.clone()
            return torch.stack([self._kept[key] for key in keys])

    def views(self, model: FusionModel, batch: Batch, regions: Regions) -> Views:
        """Tokens by the student of the images and of regions of them.

        Raises:
            UsageError: if tokens are kept and regions need layers of the encoder, or if it is trained.
        """
        if len(regions.text) and has_local_layers(model.vision):
            if self.keep:
                raise UsageError(
                    "keep_image_tokens: a ViT needs its last layers for regions. Set it to False, or use a CNN or Swin."
                )
            return model.encode_views(batch.image, regions.box, regions.image)
        return pool_regions(self.student(model, batch), regions.box, regions.image)

    def teacher_views(
        self, model: FusionModel, teacher: FusionModel, batch: Batch, regions: Regions, views: Views
    ) -> Views:
        """Views by the teacher: the student's own where its encoder is frozen, since neither moves."""
        return views if is_frozen(model.vision) else ImageTokens().views(teacher, batch, regions)

    def teacher(
        self, model: FusionModel, teacher: FusionModel, batch: Batch, image_INV: Float[Tensor, "I N V"]
    ) -> Float[Tensor, "I N V"]:
        """Tokens by the teacher: the student's own `image_INV` where its encoder is frozen, since neither moves."""
        return image_INV if is_frozen(model.vision) else teacher.encode_image(batch.image)

    def __len__(self) -> int:
        return len(self._kept)


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing in it is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())
