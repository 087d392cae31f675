"""Detection batches: padding, one text a picture, boxes with the tokens of all their phrases."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wordregion.data.ground_collate import GroundCollator, PictureCollator, padded
from wordregion.data.prompts import ABSENT
from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError
from wordregion.schema import Grounding, Sample

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
TEXT = "a red circle above a blue square"
CIRCLE, SQUARE = (2, 12), (21, 32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer("scenes", max_tokens=20, clean=False)


def sample(*groundings: Grounding, texts: tuple[str, ...] = (TEXT,), size: tuple[int, int] = (20, 30)) -> Sample:
    return Sample("s", (torch.ones(3, *size),), texts, groundings)


def words(tokenizer: Tokenizer, ids: torch.Tensor, tokens: torch.Tensor) -> str:
    return tokenizer.decode(ids[tokens].tolist())


def collate(collator: GroundCollator, *samples: Sample, seed: int = 0):
    return collator([(i, s, np.random.default_rng([seed, i])) for i, s in enumerate(samples)])


def test_pictures_lie_in_the_corner_of_a_padded_tensor() -> None:
    image, size = padded([torch.ones(3, 20, 33), torch.ones(3, 40, 10)])
    assert image.shape == (2, 3, 64, 64)
    assert size.tolist() == [[20, 33], [40, 10]]
    assert image.sum((1, 2, 3)).tolist() == [3 * 20 * 33, 3 * 40 * 10]
    assert image[0, :, :20, :33].min() == 1


def test_each_box_has_the_tokens_of_its_phrases(tokenizer: Tokenizer) -> None:
    two = sample(
        Grounding(text=0),
        Grounding(text=0, span=CIRCLE, boxes=(LEFT, RIGHT)),
        Grounding(text=0, span=SQUARE, boxes=(RIGHT,)),
    )
    nothing = sample(texts=("a star",))
    whole = sample(Grounding(text=0, boxes=(LEFT,)), texts=("a green star",))
    batch = collate(GroundCollator(tokenizer), two, nothing, whole)
    assert batch.text_image.tolist() == [0, 1, 2]
    found = {
        (int(batch.grounding_text[g]), tuple(box)): words(
            tokenizer, batch.token_ids[batch.grounding_text[g]], batch.grounding_tokens[g]
        )
        for box, g in zip(batch.box.tolist(), batch.box_grounding.tolist(), strict=True)
    }
    assert found == {(0, LEFT): "red circle", (0, RIGHT): "red circle blue square", (2, LEFT): "a green star"}
    assert len(collate(GroundCollator(tokenizer), nothing).box) == 0


def test_the_drawn_text_is_one_with_boxes(tokenizer: Tokenizer) -> None:
    three = sample(
        Grounding(text=1, boxes=(LEFT,)),
        Grounding(text=2, span=(0, 6), boxes=(RIGHT,)),
        texts=("a square", "a green star", "a star"),
    )
    drawn = set()
    for seed in range(10):
        batch = collate(GroundCollator(tokenizer), three, seed=seed)
        drawn.add((tokenizer.decode(batch.token_ids[0].tolist()), tuple(batch.box[0].tolist())))
    assert drawn == {("a green star", LEFT), ("a star", RIGHT)}


def test_a_piece_of_a_long_text_brings_its_own_boxes() -> None:
    tokenizer = Tokenizer("scenes", max_tokens=8, clean=False)
    long = sample(
        Grounding(text=0, span=CIRCLE, boxes=(LEFT,)), Grounding(text=0, span=SQUARE, boxes=(RIGHT,)), texts=(TEXT,)
    )
    drawn = set()
    for seed in range(10):
        batch = collate(GroundCollator(tokenizer), long, seed=seed)
        (box,) = batch.box.tolist()
        drawn.add((words(tokenizer, batch.token_ids[0], batch.grounding_tokens[0]), tuple(box)))
    assert drawn == {("red circle", LEFT), ("blue square", RIGHT)}


def test_what_cannot_be_collated_is_a_broken_record() -> None:
    collator = GroundCollator(Tokenizer("scenes", max_tokens=8, clean=False))
    with pytest.raises(DataError, match="has none"):
        collator.check(sample(texts=()), "here")
    collator.check(replace(sample(texts=()), target={ABSENT: ("cat",)}), "here")
    with pytest.raises(DataError, match="in one phrase"):
        collator.check(sample(Grounding(text=0, span=(0, 32), boxes=(LEFT,))), "here")


def test_pictures_alone(tokenizer: Tokenizer) -> None:
    one = replace(sample(Grounding(text=0)), target={"types": (("people",),)})
    batch = collate(PictureCollator(tokenizer), one, sample())  # type: ignore[arg-type]
    assert batch.image.shape == (2, 3, 32, 32)
    assert batch.target["texts"] == [(TEXT,), (TEXT,)]
    assert batch.target["types"] == [(("people",),), None]
    assert len(batch.token_ids) == 0
