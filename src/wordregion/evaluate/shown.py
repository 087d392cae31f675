"""What photos show of candidate answers, by a model that has learned from captions alone.

Shape letters: I images, C candidates, L their tokens, D text width, M places, E shared width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from wordregion.data.collate import Collates
from wordregion.data.loader import Transform
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.evaluate.common import over_batches
from wordregion.models.finite import require_finite
from wordregion.models.fusion import FusionModel
from wordregion.models.questions import encode_distinct
from wordregion.nn.word_region import WordRegionHead
from wordregion.schema import Dataset

TEXTS_AT_ONCE = 128


class ShownAnswers:
    """How well a photo shows the words of each candidate answer, beside other photos.

    A head that compares words with places (`nn.word_region`) scores every candidate as if it were a caption. Some words
    fit any photo better than others do, so a score is given in standard deviations above its mean over `photos`. Called
    with images (I, 3, H, W), it returns these, (I, C).

    Args:
        model: with a head ``word_region``; in evaluation mode from now on, moved to `device`.
        tokenizer: of its texts.
        candidates: C answers.
        photos: records whose first images give mean and standard deviation; not those that are evaluated.
        collator: of these records.
        transform: makes an image a normalised tensor of the model's size.
        device: where to compute.
        batch: photos at once.
        workers: processes that read photos.
        progress: show a bar with rate and time left (main process only).

    Raises:
        UsageError: if the model has no such head, there are no candidates, or all photos show one of them alike; for
            scores that are not finite.
        DataError: for a broken record.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: FusionModel,
        tokenizer: Tokenizer,
        candidates: Sequence[str],
        photos: Dataset,
        collator: Collates,
        transform: Transform,
        *,
        device: torch.device,
        batch: int = 32,
        workers: int = 0,
        progress: bool = True,
    ) -> None:
        if "word_region" not in model.heads:
            raise UsageError("the model has no head 'word_region'. Give a run that learned WordRegion.")
        if not candidates:
            raise UsageError("candidates: an empty list. Give answers.")
        self.model, self.candidates = model.to(device).eval(), tuple(candidates)
        encoded = tokenizer(list(candidates))
        self._mask_CL = encoded.mask.to(device)
        parts = zip(encoded.ids.to(device).split(TEXTS_AT_ONCE), self._mask_CL.split(TEXTS_AT_ONCE), strict=True)
        self._text_CLD = torch.cat([model.encode_text(ids, mask) for ids, mask in parts])
        rows = over_batches(
            lambda found: self._scores(found.image).tolist(),
            photos,
            transform,
            collator,
            batch=batch,
            device=device,
            workers=workers,
            progress=progress,
            title="photos",
        )
        score_IC = torch.tensor(rows, device=device)
        require_finite(score_IC, "scores of words against places")
        self._mean_C, self._std_C = score_IC.mean(0), score_IC.std(0, correction=0)
        if not bool((self._std_C > 0).all()):
            word = self.candidates[int(self._std_C.argmin())]
            raise UsageError(f"{photos.name}: all photos show '{word}' alike. Give photos that differ.")

    @torch.no_grad()
    def __call__(self, image_I3HW: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I C"]:
        """Standard deviations above the mean of `photos`."""
        return (self._scores(image_I3HW) - self._mean_C) / self._std_C

    def _scores(self, image_I3HW: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I C"]:
        head = self.model.heads["word_region"]
        assert isinstance(head, WordRegionHead)
        places_IME = head.places(encode_distinct(self.model, image_I3HW))
        return head(self._text_CLD, self._mask_CL, places_IME).T
