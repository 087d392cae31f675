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


def encode_distinct(
    model: FusionModel, image_I3HW: Float[Tensor, "I 3 H W"]
) -> tuple[Float[Tensor, "I N V"], Float[Tensor, "I F"]]:
    """Image tokens, and summaries at full width; an image that follows its like, as one with several questions does in
    a data set, is not encoded again. For evaluation: alike images get the same tokens.

    For a model with a `WordPrior`, which compares summaries, they are the means of an image's and its mirror image's.
    """
    distinct, row_I = torch.unique_consecutive(image_I3HW, dim=0, return_inverse=True)
    whole = model.vision.whole(distinct)
    summary = whole[:, 0]
    if word_prior(model) is not None:
        summary = (summary + model.vision.whole(distinct.flip(-1))[:, 0]) / 2
    return model.vision.seen(whole)[row_I], summary[row_I]


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
