"""What a model of two images thinks of a batch; for training and evaluation alike.

Shape letters: T texts, I images, N image tokens, V image width, C classes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wordregion.models.fusion import FusionModel
from wordregion.schema import Batch


def pair_logits(
    model: FusionModel, batch: Batch, image_INV: Float[Tensor, "I N V"], head: str = "nlvr"
) -> Float[Tensor, "T C"]:
    """Logits of each text with its two images, which stand one after the other in the batch.

    Args:
        model: built by `zoo.for_two_images`.
        batch: ``text_image`` points at the first image of each text.
        image_INV: the batch's images, encoded.
        head: which of the model's heads; of ``"nlvr"``, class 1 = the text is true of the two images.
    """
    text = model.encode_text(batch.token_ids, batch.token_mask)
    both_T2 = torch.stack([batch.text_image, batch.text_image + 1], 1)
    return model.heads[head](model.fuse(text, batch.token_mask, image_INV, both_T2).cls)
