"""Flickr30k recall by hand; the original's toy set is compared in tests/parity/test_glip_data.py."""

import pytest
import torch

from wordregion.evaluate.phrase_recall import FoundPhrase, find_phrase, recall

TWO = torch.tensor([[0.0, 0.0, 4.0, 4.0], [6.0, 0.0, 10.0, 4.0]])


def test_any_true_box_counts_and_the_box_around_all_is_another_measure() -> None:
    boxes = torch.tensor([[0.0, 5.0, 1.0, 6.0], [0.0, 0.0, 10.0, 4.0], [6.0, 0.0, 10.0, 4.0]])
    assert find_phrase(boxes, TWO, ("people",)) == FoundPhrase(("people",), any_box=3, merged_box=2)
    assert find_phrase(boxes[:1], TWO) == FoundPhrase((), None, None)
    assert find_phrase(torch.zeros(0, 4), TWO) == FoundPhrase((), None, None)


def test_half_an_overlap_is_enough() -> None:
    true = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    assert find_phrase(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), true).any_box == 1
    assert find_phrase(torch.tensor([[0.0, 0.0, 4.0, 1.9]]), true).any_box is None


def test_half_an_overlap_in_pixels_is_enough_after_rounding() -> None:
    size = torch.tensor([640.0, 480.0, 640.0, 480.0])
    found, true = torch.tensor([[41.0, 191.0, 52.0, 322.0]]) / size, torch.tensor([[41.0, 191.0, 63.0, 322.0]]) / size
    assert find_phrase(found, true).any_box == 1


def test_recall_by_depth_and_type() -> None:
    phrases = [
        FoundPhrase(("a",), 1, 6),
        FoundPhrase(("a", "b"), 7, 1),
        FoundPhrase((), None, None),
        FoundPhrase((), 11, 2),
    ]
    found = recall(phrases, (1, 5, 10, None))
    assert [found[f"any_box/all/R@{k}"] for k in (1, 5, 10, "any")] == pytest.approx([0.25, 0.25, 0.5, 0.75])
    assert [found[f"merged_box/all/R@{k}"] for k in (1, 5, 10)] == pytest.approx([0.25, 0.5, 0.75])
    assert (found["any_box/a/R@1"], found["any_box/b/R@1"], found["any_box/b/R@10"]) == (0.5, 0.0, 1.0)
