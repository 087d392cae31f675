"""Recall and top lists against hand-worked cases and an independent brute force."""

import itertools
import random

import pytest
import torch

from wordregion.evaluate.ranking import (
    UNSCORED,
    dense,
    look_up,
    pairs_to_score,
    recall_at,
    reorder,
    top_candidates,
)


def brute_force_recall(score, query_group, candidate_group, n):
    """The definition, spelled out in plain Python."""
    hits = total = 0
    for row, group in zip(score, query_group, strict=True):
        if group not in candidate_group:
            continue
        total += 1
        ranked = sorted(range(len(row)), key=lambda c: (-row[c], c))
        hits += any(candidate_group[c] == group for c in ranked[:n])
    return 100.0 * hits / total


def test_hand_worked_case():
    # Two images; texts 0 and 1 describe image 0, text 2 image 1. Image 1 ranks its text second.
    texts_for_images = torch.tensor([[1, 2, 0], [0, 2, 1]])
    groups = torch.tensor([0, 0, 1])
    assert recall_at(texts_for_images, torch.arange(2), groups, (1, 2)) == {1: 50.0, 2: 100.0}
    images_for_texts = torch.tensor([[0, 1], [1, 0], [1, 0]])
    ranked = recall_at(images_for_texts, groups, torch.arange(2), (1, 2))
    assert ranked == {1: pytest.approx(200 / 3), 2: 100.0}


@pytest.mark.parametrize("seed", range(5))
def test_against_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    draw = random.Random(seed)
    images = 13 + seed
    groups = [image for image in range(images) if image != 3 for _ in range(draw.randint(1, 4))]
    image, text = (torch.randn(n, 4, generator=generator).round().double() for n in (images, len(groups)))  # many ties
    for query, candidate, q, c in (
        (image, text, list(range(images)), groups),
        (text, image, groups, list(range(images))),
    ):
        top, score = top_candidates(query, candidate, 10, chunk=4)
        table = (query @ candidate.t()).tolist()
        assert [[table[i][j] for j in row] for i, row in enumerate(top.tolist())] == score.tolist()
        measured = recall_at(top, torch.tensor(q), torch.tensor(c))
        for n in (1, 5, 10):
            assert measured[n] == pytest.approx(brute_force_recall(table, q, c, n))


def test_ties_go_to_the_lower_index():
    top, _ = top_candidates(torch.ones(2, 3), torch.ones(50, 3), 4)
    assert top.tolist() == [[0, 1, 2, 3]] * 2


def test_lists_are_as_long_as_there_are_candidates():
    assert top_candidates(torch.ones(2, 3), torch.ones(3, 3), 10)[0].shape == (2, 3)


def test_pairs_are_the_union_without_repeats():
    texts_for_images, images_for_texts = torch.tensor([[0, 2], [1, 2]]), torch.tensor([[1], [1], [0], [0]])
    image, text = pairs_to_score(texts_for_images, images_for_texts)
    expected = {(0, 0), (0, 2), (1, 1), (1, 2), (1, 0), (0, 3)}
    assert list(zip(image.tolist(), text.tolist(), strict=True)) == sorted(expected)
    score = torch.tensor([10.0 * i + t for i, t in sorted(expected)])
    found = look_up(image, text, score, 4, torch.tensor([[0], [1]]), torch.tensor([[3], [0]]))
    assert found.tolist() == [[3.0], [10.0]]


def test_reordering_touches_the_first_k_only_and_keeps_ties():
    top, score = reorder(torch.tensor([[4, 7, 1, 9]]), torch.tensor([[0.5, 2.0, 0.5]]))
    assert top.tolist() == [[7, 4, 1, 9]]
    assert score.tolist() == [[2.0, 0.5, 0.5, UNSCORED]]


def test_dense_matrix():
    matrix = dense(torch.tensor([[2, 0]]), torch.tensor([[0.25, -3.0]]), 4)
    assert matrix.tolist() == [[-3.0, UNSCORED, 0.25, UNSCORED]]


def test_every_order_of_three_candidates():
    groups = torch.tensor([0, 1, 2])
    for order in itertools.permutations(range(3)):
        place = order.index(0)
        measured = recall_at(torch.tensor([order]), torch.tensor([0]), groups, (1, 2, 3))
        assert measured == {n: 100.0 * (place < n) for n in (1, 2, 3)}
