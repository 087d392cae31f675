"""Statements about two images at full size, and the draws of text assignment, against the original's numbers."""

import json
from pathlib import Path

import pytest
import torch

from tests.parity.__main__ import main
from tests.parity.albef_nlvr import _run_of, fixed_coins
from wordregion.tasks.assign_text import assign

FOLDER = Path(__file__).parent / "data" / "albef_nlvr"


@pytest.mark.large
def test_the_logits_match(capsys):
    assert main(FOLDER) == 0, capsys.readouterr().out


def test_the_originals_sequence_of_draws_is_used_up():
    """It takes seven numbers and, by class, one image or two for each of four texts."""
    inputs = json.loads((FOLDER / "inputs.json").read_text())
    sequence, choices = inputs["nlvr_pretrain_rand_sequence"], inputs["nlvr_pretrain_multinomial_choices"]
    drawn = torch.tensor([(row * 2)[:2] for row in choices])
    chosen, label = assign(torch.arange(4), torch.full((4,), 3), fixed_coins(sequence, 4), drawn)
    assert [2 if c == 2 else 1 for c in label.tolist()] == [len(row) for row in choices]
    assert sum(1 + (c != 2) for c in label.tolist()) == len(sequence)
    assert chosen.tolist() == [[0, 2], [2, 1], [0, 3], [3, 0]]


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("nlvr/logits", None),
        ("nlvr/nodistill/loss", "nlvr/nodistill"),
        ("nlvr/alpha04__grad_l2", "nlvr/alpha04"),
        ("nlvr/distill_alpha1/loss", "nlvr/distill_alpha1"),
    ],
)
def test_a_run_is_read_from_the_name(name, run):
    assert _run_of(name) == run
