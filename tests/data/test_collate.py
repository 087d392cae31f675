"""A flat batch must still say which word, box, text and image belong together."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wordregion.data.collate import Collator
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Grounding, Sample

BOX, OTHER, THIRD = (0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 1.0, 0.5), (0.25, 0.25, 0.75, 1.0)

WORDS = ("a", "red", "blue", "dog", "cat", "sits", "on", "the", "mat", "near", "man")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return Tokenizer(tmp_path, max_tokens=8)


def sample(number: int, texts: tuple[str, ...], groundings: tuple[Grounding, ...], **target: object) -> Sample:
    return Sample(f"s{number}", (torch.full((3, 4, 4), float(number)),), texts, groundings, target)


def two() -> list[Sample]:
    first = sample(
        0,
        ("A red dog, near the blue cat", "the red dog", "a man"),
        (
            Grounding(text=0),
            Grounding(text=0, span=(0, 9), boxes=(BOX, OTHER)),
            Grounding(text=0, span=(16, 28), boxes=(THIRD,)),
            Grounding(text=1, boxes=(BOX,)),
            Grounding(text=2),
        ),
    )
    second = sample(
        1,
        ("a man on a red red red mat",),
        (Grounding(0), Grounding(0, (OTHER,), (0, 5)), Grounding(0, (BOX,), (23, 26))),
    )
    return [first, second]


def items(samples: list[Sample], seed: int = 0) -> list[tuple[int, Sample, np.random.Generator]]:
    return [(10 + i, s, np.random.default_rng([seed, i])) for i, s in enumerate(samples)]


def test_everything_is_linked(tokenizer: Tokenizer) -> None:
    batch = Collator(tokenizer, texts_per_image=None)(items(two()))
    assert batch.image[:, 0, 0, 0].tolist() == [0, 1]
    assert batch.image_key.tolist() == [10, 11]
    texts = ["a red dog near the blue", "a man", "a man on a red red"]
    assert [tokenizer.decode(row.tolist()) for row in batch.token_ids] == texts
    assert batch.text_image.tolist() == [0, 0, 1]
    assert batch.masked_ids is None
    assert batch.labels is None
    # phrases: "A red dog", "the blue cat" cut to "the blue", "a man"; "mat" was cut off and is gone with its box
    assert batch.grounding_text.tolist() == [0, 0, 2]
    words = [
        tokenizer.decode(batch.token_ids[t][tokens].tolist())
        for t, tokens in zip(batch.grounding_text, batch.grounding_tokens, strict=True)
    ]
    assert words == ["a red dog", "the blue", "a man"]
    assert batch.box_grounding.tolist() == [0, 0, 1, 2]
    torch.testing.assert_close(batch.box, torch.tensor([BOX, OTHER, THIRD, OTHER]))


def test_a_span_without_boxes_and_a_caption_with_a_box(tokenizer: Tokenizer) -> None:
    both = sample(0, ("a red dog",), (Grounding(0), Grounding(0, (), (2, 5)), Grounding(0, (BOX,))))
    batch = Collator(tokenizer)(items([both]))
    assert batch.grounding_tokens.tolist() == [[False, False, True, False, False], [True] * 5]
    assert batch.box_grounding.tolist() == [1]


def test_no_groundings(tokenizer: Tokenizer) -> None:
    batch = Collator(tokenizer)(items([sample(0, ("a dog",), (Grounding(0),))]))
    assert batch.grounding_tokens is not None
    assert batch.grounding_tokens.shape == (0, 4)
    assert batch.box.shape == (0, 4)
    assert batch.grounding_text.dtype == batch.box_grounding.dtype == torch.long


def test_captions_are_drawn_evenly_and_differ(tokenizer: Tokenizer) -> None:
    texts = ("a dog", "a cat", "a man", "the mat", "a cat")  # one wording twice
    many = sample(0, texts, tuple(Grounding(i) for i in range(5)))
    counts: dict[str, int] = {}
    for seed in range(400):
        batch = Collator(tokenizer, texts_per_image=2)(items([many], seed))
        drawn = [tokenizer.decode(row.tolist()) for row in batch.token_ids]
        assert len(set(drawn)) == 2
        for text in drawn:
            counts[text] = counts.get(text, 0) + 1
    assert set(counts) == {"a dog", "a cat", "a man", "the mat"}
    assert all(abs(n - 200) < 50 for n in counts.values())
    assert Collator(tokenizer, texts_per_image=9)(items([many])).token_ids.shape[0] == 4


def test_masks_do_not_depend_on_the_rest_of_the_batch(tokenizer: Tokenizer) -> None:
    collator = Collator(tokenizer, Masking(0.5), texts_per_image=2)
    together = collator(items(two()))
    second = (11, two()[1], np.random.default_rng([0, 1]))
    alone = collator([second])
    n = alone.token_ids.shape[1]
    for name in ("token_ids", "masked_ids", "labels"):
        assert torch.equal(getattr(together, name)[2:, :n], getattr(alone, name))
    chosen = together.labels != -100
    assert torch.equal(together.labels[chosen], together.token_ids[chosen])
    assert torch.equal(together.masked_ids[~chosen], together.token_ids[~chosen])
    assert chosen.any()


def test_padding_to_the_longest_or_to_the_limit(tokenizer: Tokenizer) -> None:
    short = [sample(0, ("a dog",), (Grounding(0, (BOX,), (2, 5)), Grounding(0)))]
    assert Collator(tokenizer)(items(short)).token_ids.shape == (1, 4)
    full = Collator(tokenizer, Masking(), pad_to_max=True)(items(short))
    assert full.token_ids.shape == full.labels.shape == full.grounding_tokens.shape == (1, 8)


def test_targets(tokenizer: Tokenizer) -> None:
    captions, texts = (Grounding(0),), ("a dog",)
    given = [sample(0, texts, captions, label=2, answers={"red": 1.0}), sample(1, texts, captions, label=0)]
    batch = Collator(tokenizer)(items(given))
    assert batch.target["label"].tolist() == [2, 0]
    assert batch.target["answers"] == [{"red": 1.0}, None]


def test_errors(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"s0.*no caption"):
        Collator(tokenizer)(items([sample(0, ("a dog",), (Grounding(0, (BOX,)),))]))
    with pytest.raises(UsageError):
        Collator(tokenizer, texts_per_image=0)
