"""Class names to prompts and spans; the original's numbers are compared in tests/parity/test_glip_data.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from wordregion.data.prompts import (
    ABSENT,
    DetectionPrompts,
    FixedPrompts,
    PromptSampling,
    Wording,
    class_chunks,
    class_prompt,
    positive_map,
    prompt_room,
    split_caption,
    token_count,
    token_map,
)
from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Grounding, Sample

NAMES = ("red circle", "blue_square", "green star", "large triangle", "small star", "yellow circle")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer("scenes", max_tokens=24, clean=False)


def boxed(*shown: str, absent: tuple[str, ...] = NAMES) -> Sample:
    groundings = tuple(Grounding(text=i, boxes=((0.1, 0.1, 0.5, 0.6),)) for i in range(len(shown)))
    return Sample("s", (Image.new("RGB", (8, 8)),), shown, groundings, {ABSENT: absent, "other": 1})


def test_each_class_is_where_its_span_says() -> None:
    prompt = class_prompt(["stop_sign", Wording("penguin", "a photo of ", " in black"), "cup (blue)"], [7, 3, 5])
    assert prompt.text == "stop sign. a photo of penguin in black. cup "
    assert {n: prompt.text[slice(*span)] for n, span in prompt.spans.items()} == {
        7: "stop sign",
        3: "penguin",
        5: "cup ",
    }


@pytest.mark.parametrize("names", [[], ["cat", "(all of it in parentheses)"], ["_"]])
def test_a_class_without_words_is_an_error(names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"Name at least one|has no words"):
        class_prompt(names)


def test_chunks_hold_every_class_once_within_the_limits(tokenizer: Tokenizer) -> None:
    names = [NAMES[i % 6] for i in range(1203)]
    prompts = class_chunks(names, tokenizer, size=5)
    assert [n for prompt in prompts for n in prompt.spans] == list(range(1203))
    assert max(len(prompt.spans) for prompt in prompts) == 5
    for prompt in prompts:
        assert token_count(tokenizer, prompt.text) <= prompt_room(tokenizer)
        assert all(prompt.text[slice(*s)] == names[n].replace("_", " ") for n, s in prompt.spans.items())
    narrow = Tokenizer("scenes", max_tokens=8, clean=False)
    assert [len(p.spans) for p in class_chunks(NAMES, narrow)] == [2, 2, 2]
    with pytest.raises(UsageError, match="more than 6 tokens"):
        class_chunks(["red red red red red red red"], narrow)


def test_a_training_prompt_keeps_what_is_shown_and_stays_in_the_budget(tokenizer: Tokenizer) -> None:
    counts, orders = set(), set()
    prompts = DetectionPrompts(tokenizer, PromptSampling(negatives=4, full=0.5, budget=17))
    for seed in range(40):
        out = prompts(boxed("blue_square", "green star"), np.random.default_rng(seed))
        (text,) = out.texts
        assert token_count(tokenizer, text) <= 17
        assert {text[slice(*g.span)] for g in out.groundings if g.span} == {"blue square", "green star"}
        assert all(g.boxes == ((0.1, 0.1, 0.5, 0.6),) and g.text == 0 for g in out.groundings)
        assert len(set(text.split(". "))) == len(text.split(". "))
        counts.add(text.count(". "))
        orders.add(text)
        assert dict(out.target) == {"other": 1}
    assert counts == {1, 2, 3, 4}
    assert len(orders) > 20


def test_positives_over_the_budget_go_with_their_boxes(tokenizer: Tokenizer) -> None:
    kept = set()
    for seed in range(20):
        out = DetectionPrompts(tokenizer, PromptSampling(budget=6))(boxed(*NAMES[:4]), np.random.default_rng(seed))
        assert len(out.groundings) == 2
        kept |= {out.texts[0][slice(*g.span)] for g in out.groundings if g.span}
    assert len(kept) == 4  # which ones stay is drawn


def test_an_image_without_boxes_gets_negatives_alone(tokenizer: Tokenizer) -> None:
    out = DetectionPrompts(tokenizer)(boxed(), np.random.default_rng(0))
    assert out.groundings == ()
    assert set(out.texts[0].split(". ")) <= {name.replace("_", " ") for name in NAMES}
    with pytest.raises(DataError, match="no class to ask for"):
        DetectionPrompts(tokenizer)(boxed(absent=()), np.random.default_rng(0))
    caption = replace(boxed(), target={})
    assert DetectionPrompts(tokenizer)(caption, np.random.default_rng(0)) is caption


def test_tokens_of_spans(tokenizer: Tokenizer) -> None:
    text = "a red circle   left of a star"
    offsets = tokenizer([text]).offsets[0]

    def found(span: tuple[int, int], original: bool = False) -> list[int]:
        return torch.nonzero(token_map(offsets, [span], original)).flatten().tolist()

    assert found((2, 12)) == [2, 3]
    assert found((11, 19)) == [3, 4]  # a token that is touched counts whole
    assert found((12, 15)) == []
    assert found((12, 19)) == [4]
    # the original looks two characters on, and finds nothing behind three blanks
    assert found((12, 19), original=True) == []
    assert found((13, 19), original=True) == [4]
    rows = positive_map(torch.tensor([[False, True, True], [False, False, False]]))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 1 / (2 + 1e-6), 1 / (2 + 1e-6)], [0.0, 0.0, 0.0]]))


def test_a_tuned_prompt_is_the_same_for_every_picture_and_the_one_that_is_asked(tokenizer: Tokenizer) -> None:
    classes = NAMES[:4]
    prompter, (asked,) = FixedPrompts(classes, tokenizer), class_chunks(classes, tokenizer)
    for shown in ((), ("green star", "red circle")):
        sample = prompter(boxed(*shown), np.random.default_rng(0))
        assert sample.texts == (asked.text,)
        assert [sample.texts[0][slice(*g.span)] for g in sample.groundings] == list(shown)
        assert sample.target == {"other": 1}
    caption = replace(boxed("a red circle"), target={})
    assert prompter(caption, np.random.default_rng(0)) is caption
    with pytest.raises(DataError, match="'a cat' is none"):
        prompter(boxed("a cat"), np.random.default_rng(0))
    with pytest.raises(UsageError, match="a tuned prompt is one text"):
        FixedPrompts(NAMES * 3, tokenizer)
    with pytest.raises(UsageError, match="Name at least one"):
        FixedPrompts((), tokenizer)


def test_a_long_caption_is_cut_between_phrases_and_nothing_is_lost() -> None:
    tokenizer = Tokenizer("scenes", max_tokens=8, clean=False)
    text = "a red circle left of a small blue square above a green star"
    spans = [(0, 12), (21, 40)]
    pieces = split_caption(text, spans, tokenizer)
    assert " ".join(text[b:e] for b, e in pieces) == text
    assert all(token_count(tokenizer, text[b:e]) <= 6 for b, e in pieces)
    assert all(any(b <= s and e <= end for b, end in pieces) for s, e in spans)
    assert [text[b:e] for b, e in pieces] == ["a red circle left of", "a small blue square above a", "green star"]
    assert split_caption("a red circle", [(0, 12)], tokenizer) == [(0, 12)]
    with pytest.raises(UsageError, match="in one phrase"):
        split_caption(text, [(0, 40)], tokenizer)
