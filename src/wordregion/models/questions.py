"""Questions about images, encoded once for all their answers; for training and evaluation alike.

Shape letters: T questions, L their tokens, D text width, I images, N image tokens, V image width,
F before `components`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wordregion.models.fusion import FusionModel
from wordregion.nn.decoder import AnswerDecoder
from wordregion.nn.word_prior import WordPrior
from wordregion.schema import Batch


def encode_distinct(model: FusionModel, image_I3HW: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I N V"]:
    """Image tokens; an image that follows its like, as one with several questions does in a data set, is not encoded
    again. For evaluation: alike images get the same tokens."""
    distinct, row_I = torch.unique_consecutive(image_I3HW, dim=0, return_inverse=True)
    return model.encode_image(distinct)[row_I]


def encode_for_prior(
    model: FusionModel, image_I3HW: Float[Tensor, "I 3 H W"]
) -> tuple[Float[Tensor, "I N V"], Float[Tensor, "I F"]]:
    """What `encode_distinct` gives, and the summaries that a `WordPrior` compares: at full width, the means of an
    image's and its mirror image's."""
    distinct, row_I = torch.unique_consecutive(image_I3HW, dim=0, return_inverse=True)
    whole, mirrored = model.vision.whole(distinct), model.vision.whole(distinct.flip(-1))
    return model.vision.seen(whole)[row_I], (whole[:, 0] + mirrored[:, 0])[row_I] / 2


def encode_questions(model: FusionModel, batch: Batch, image_INV: Float[Tensor, "I N V"]) -> Float[Tensor, "T L D"]:
    """Fused states of the batch's texts, each with its image (encoded before); those at padding are meaningless."""
    text_TLD = model.encode_text(batch.token_ids, batch.token_mask)
    return model.fuse(text_TLD, batch.token_mask, image_INV, batch.text_image).hidden


def answer_decoder(model: FusionModel) -> AnswerDecoder:
    """The model's head ``answer``, as `zoo.for_questions` gives it."""
    decoder = model.heads["answer"]
    assert isinstance(decoder, AnswerDecoder)
    return decoder


def word_prior(model: FusionModel) -> WordPrior | None:
    """The model's head ``prior``, if it has one."""
    prior = dict(model.heads.items()).get("prior")
    assert prior is None or isinstance(prior, WordPrior)
    return prior
