"""What a model thinks of statements about two images, or one; for training and evaluation alike.

Shape letters: T texts, I images, N image tokens, V image width, C classes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wordregion.models.fusion import FusionModel
from wordregion.nn.pair_fusion import PairFusion
from wordregion.schema import Batch


def pair_logits(
    model: FusionModel, batch: Batch, image_INV: Float[Tensor, "I N V"], head: str = "nlvr"
) -> Float[Tensor, "T C"]:
    """Logits of each text with its images.

    Args:
        model: built by `zoo.for_two_images`, or `zoo.for_statements` for one image a text.
        batch: ``text_image`` points at the first image of each text; the second, if the model takes two, follows it.
        image_INV: the batch's images, encoded.
        head: which of the model's heads; of ``"nlvr"``, class 1 = the text is true of the images.
    """
    text = model.encode_text(batch.token_ids, batch.token_mask)
    of_text = batch.text_image
    if isinstance(model.fusion, PairFusion):
        of_text = torch.stack([of_text, of_text + 1], 1)
    return model.heads[head](model.fuse(text, batch.token_mask, image_INV, of_text).cls)
