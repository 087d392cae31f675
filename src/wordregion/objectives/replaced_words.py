"""Replaced-word detection with the image (VL-RTD): the text encoder swaps words, the fusion encoder finds the swaps.

Shape letters: T texts, L tokens, M masked positions, V vocabulary.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.losses.tokens import masked_word_loss, replaced_word_loss
from wordregion.mining import Draw, draw_one
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives.scene import AlignScene, Losses, Needs, Pairs


@dataclass(frozen=True)
class ReplacedWords:
    """Says of every word, given the image and the whole text, whether it is the caption's own (VL-Match section 3).

    The text encoder sees the masked copy and guesses the words at the masked positions (head ``generate``, its own
    masked-word loss, no image). A word is drawn at each of them and put into the text; a drawn word that happens to be
    the original is no replacement. The fusion encoder reads that text with the image, and the head ``replaced`` judges
    every word. Nothing flows back through the draw: the guesses learn by their own loss alone. How many words are
    masked is the setting of the collator's `Masking`; the copy that is judged has no [MASK] in it.

    Attributes:
        weight: factor of the detection loss.
        generator_weight: factor of the generator's masked-word loss.
        temperature: of the draw: 1 = from the generator's own distribution, lower = harder to find, 0 = its best guess.
        draw: how words are drawn from row weights; exchangeable for tests.
    """

    weight: float = 10.0
    generator_weight: float = 1.0
    temperature: float = 1.0
    draw: Draw = field(default=draw_one, repr=False)
    wants_masked = True
    needs: ClassVar[Needs] = "fused"

    def __post_init__(self) -> None:
        if min(self.weight, self.generator_weight, self.temperature) < 0:
            raise UsageError(f"{self}: weights and temperature must be 0 or more. Correct the recipe.")

    def pairs(self, scene: AlignScene) -> Pairs:
        """The text with drawn words, each with its own image."""
        batch, model = scene.batch, scene.model
        if batch.labels is None or batch.words is None:
            raise UsageError("ReplacedWords: the batch marks no words. Use Collator with a Masking.")
        for name in ("generate", "replaced"):
            if name not in model.heads:
                raise UsageError(f"ReplacedWords: the model has no head '{name}'. Build it with for_replaced_words.")
        at = (batch.labels != -100).flatten().nonzero().squeeze(1)
        masked = scene.text[scene.texts : 2 * scene.texts]
        logits = model.heads["generate"](masked.flatten(0, 1)[at]).float()
        drawn = draw_words(logits.detach(), self.temperature, self.draw)
        ids, replaced = put_words(batch.token_ids, batch.labels, drawn)
        scene.kept[self] = (logits, drawn, replaced)
        return Pairs(row=scene.add_texts(ids, batch.token_mask), image=scene.view)

    def __call__(self, model: FusionModel, scene: AlignScene, fused: Fused | None) -> Losses:
        """The generator's cross-entropy over masked positions, and the binary one over all words."""
        assert fused is not None
        batch = scene.batch
        assert batch.words is not None
        assert batch.labels is not None
        logits, drawn, replaced = scene.kept[self]
        labels = batch.labels[batch.labels != -100]
        guesses = masked_word_loss(logits, labels).sum() / scene.total_masked.clamp(min=1e-12)
        judged = model.heads["replaced"](fused.hidden[batch.words])
        truth = replaced[batch.words]
        words = scene.total_words.clamp(min=1e-12)
        return {
            "replaced_words": self.weight * replaced_word_loss(judged, truth).sum() / words,
            "generator": self.generator_weight * guesses,
            "replaced_words_accuracy": ((judged.detach() > 0) == truth).sum() / words,
            "generator_accuracy": (drawn == labels).sum() / scene.total_masked.clamp(min=1e-12),
        }


def draw_words(logits_MV: Float[Tensor, "M V"], temperature: float, draw: Draw = draw_one) -> Int[Tensor, "M"]:
    """A word for each position, from the softmax of logits / temperature; at 0 the most probable one."""
    if temperature == 0 or len(logits_MV) == 0:
        return logits_MV.argmax(1)
    return draw((logits_MV / temperature).softmax(1))


def put_words(
    ids_TL: Int[Tensor, "T L"], labels_TL: Int[Tensor, "T L"], words_M: Int[Tensor, "M"]
) -> tuple[Int[Tensor, "T L"], Bool[Tensor, "T L"]]:
    """Puts words at the positions that have a label.

    Args:
        ids_TL: the uncorrupted texts.
        labels_TL: original ids at the chosen positions, -100 elsewhere.
        words_M: the new ids, in the order of the chosen positions.

    Returns:
        the new texts, and where they differ from the old ones.
    """
    new = ids_TL.masked_scatter(labels_TL != -100, words_M.to(ids_TL.dtype))
    return new, new != ids_TL
