"""A fusion model as a language model that sees an image: captions, word by word (X-VLM, its code for captioning).

Nothing is added to the model. Its text half and its fusion encoder run with every token looking back only, and its
masked-word head names the next token instead of a hidden one.

Shape letters: C captions, M their new tokens, S their tokens so far (those in the cache included), I images, N image
tokens, V image width, D text width, W vocabulary.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.nn.cache import Cache
from wordregion.nn.few_rows import FewRows
from wordregion.nn.fusion import FusionEncoder
from wordregion.nn.heads import MaskHead


def caption_states(
    model: FusionModel,
    ids_CM: Int[Tensor, "C M"],
    image_INV: Float[Tensor, "I N V"],
    image_C: Int[Tensor, "C"] | None = None,
    cache: Cache | None = None,
) -> Float[Tensor, "C M D"]:
    """States of the captions' tokens: what stands at a token predicts the next one, through `word_head`.

    Padding needs no mask: it stands behind the words, where none of them looks.

    Args:
        model: of one image a text.
        ids_CM: captions, from [CLS] on; with a cache, only the tokens that it does not hold yet.
        image_INV: image tokens.
        image_C: image of each caption; None = captions are ordered by image, equally many for each.
        cache: of the same captions and images; it takes in the new tokens.
    """
    C, M = ids_CM.shape
    past = 0 if cache is None else cache.length
    position = torch.arange(past + M, device=ids_CM.device)
    mask = (position <= position[past:, None]).expand(C, 1, M, past + M)
    split = len(model.text.blocks())
    x = model.text.decode(ids_CM, mask, None if cache is None else cache.blocks[:split])
    for index, layer in enumerate(model.fusion.layers):
        own = None if cache is None else cache.blocks[split + index]
        x, _ = layer(x, mask, image_INV, image_C, cache=own)
    return x


def word_head(model: FusionModel) -> MaskHead:
    """The model's masked-word head.

    Raises:
        UsageError: if it has none, or reads two images a text.
    """
    head = dict(model.heads.items()).get("mask")
    if not isinstance(head, MaskHead) or not isinstance(model.fusion, FusionEncoder):
        raise UsageError("captions need a model of one image with a masked-word head. Use one of pre-training.")
    return head


class CaptionWriter:
    """Gives the next token's logits for captions of some images; computes each token's keys and values once.

    Args:
        model: in evaluation mode.
        image_INV: image tokens; captions are ordered by image, equally many for each.
    """

    def __init__(self, model: FusionModel, image_INV: Float[Tensor, "I N V"]) -> None:
        self.model, self.image, self.head = model, image_INV, word_head(model)
        self.cache = Cache(len(model.text.blocks()) + len(model.fusion.layers))

    def __call__(self, new_CM: Int[Tensor, "C M"]) -> Float[Tensor, "C W"]:
        """Logits of what follows, given the tokens that were not given yet."""
        with FewRows():
            return self.head(caption_states(self.model, new_CM, self.image, cache=self.cache)[:, -1]).float()

    def keep(self, rows_C: Int[Tensor, "C"]) -> None:
        """Takes these rows as the new captions; they stay ordered by image."""
        self.cache.keep(rows_C)
