import pytest
import torch

from wordregion.errors import UsageError
from wordregion.models.detect import Thresholds, detect, label_scores, suppress
from wordregion.nn.anchor_head import Grounded
from wordregion.nn.pyramid import level_sizes

SIZES = level_sizes(64, 96)
PLACES = sum(h * w for h, w in SIZES)


def grounded(hits, length=6):
    """Outputs in which the given places fit the given tokens; all boxes are their anchors."""
    logits = torch.full((1, PLACES, length), -9.0)
    for place, token, logit in hits:
        logits[0, place, token] = logit
    return Grounded(logits, torch.zeros(1, PLACES, 4), torch.full((1, PLACES), 9.0), tuple(SIZES))


def tokens(*rows, length=6):
    return torch.stack([torch.isin(torch.arange(length), torch.tensor(row)) for row in rows])


def test_a_label_scores_the_mean_of_its_tokens():
    logits = torch.logit(torch.tensor([[0.2, 0.4, 0.9]]))
    torch.testing.assert_close(
        label_scores(logits, torch.tensor([[True, True, False], [False] * 3])), torch.tensor([[0.3, 0.0]])
    )


def test_neighbours_of_one_label_are_suppressed_and_other_labels_stay():
    place = PLACES - 2  # of the coarsest levels: both boxes cover the picture
    found = detect(grounded([(place, 1, 3.0), (PLACES - 1, 1, 2.0), (place, 2, 1.0)]), [tokens([1], [2])], [(64, 96)])[
        0
    ]
    assert found.label.tolist() == [0, 1]
    assert found.score[0] > found.score[1]
    assert found.box.tolist() == [[0, 0, 95, 63]] * 2
    assert found.unit_box().tolist() == [[0, 0, 1, 1]] * 2


def test_nothing_found_and_no_labels():
    for rows in (tokens([1]), torch.zeros(0, 6, dtype=torch.bool)):
        found = detect(grounded([]), [rows], [(64, 96)])[0]
        assert found.box.shape == (0, 4)


@pytest.mark.parametrize("part", ["logits", "delta", "centre"])
def test_outputs_that_are_not_finite_are_refused(part):
    outputs = grounded([(PLACES - 2, 1, 3.0)])
    getattr(outputs, part)[0, 0] = float("nan")
    with pytest.raises(UsageError, match="outputs are not finite"):
        detect(outputs, [tokens([1])], [(64, 96)])


def test_at_most_so_many_are_kept_but_for_ties():
    hits = [(place, 1, 3.0 + place / 1000) for place in range(0, 96, 7)]
    keep = Thresholds(overlap=1.0, most=3)
    found = detect(grounded(hits), [tokens([1])], [(64, 96)], keep)[0]
    best = torch.tensor(sorted(logit for _, _, logit in hits)[-3:])
    torch.testing.assert_close(found.score.sort().values, (best.sigmoid() * torch.tensor(9.0).sigmoid()).sqrt())
    tied = detect(grounded([(place, 1, 3.0) for place, _, _ in hits]), [tokens([1])], [(64, 96)], keep)[0]
    assert len(tied.box) == len(hits)


def test_overlap_includes_the_last_row_and_column():
    """IoU of [0, 9] and [0, 5] is 6/10 with the last column counted, and 5/9 without."""
    box = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 5.0, 9.0]])
    score, label = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.long)
    assert len(suppress(box, score, label, 0.58)) == 1
    assert len(suppress(box, score, label, 0.61)) == 2
    assert len(suppress(box, score, torch.tensor([0, 1]), 0.1)) == 2
