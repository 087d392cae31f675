"""X-VLM at full size against the original's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.__main__ import main
from tests.parity.relative_positions import FILE
from tests.parity.xvlm_pretrain import _box_losses

FOLDER = Path(__file__).parent / "data" / "xvlm"


@pytest.mark.large
@pytest.mark.parametrize(
    "group",
    ["pretrain_swin/", "pretrain_clip/", "deit_vision_only/", "retrieval/", "gradcam/", "bbox/", "vqa/", "nlvr"],
)
def test_every_array_of_the_group_matches(group, capsys):
    assert main(FOLDER, group) == 0, capsys.readouterr().out


def test_the_patches_of_a_box_are_the_originals(capsys):
    assert main(FOLDER, "boxmask/") == 0, capsys.readouterr().out


def test_relative_position_tables_grow_as_in_the_original(capsys):
    assert main(FOLDER, "relative_position_interp/") == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count(" ok\n") == len(np.load(FOLDER / FILE)) == 2


def test_a_name_says_whether_whole_images_count_and_whether_a_box_is_degenerate():
    class Inputs:
        inputs = json.loads((FOLDER / "inputs.json").read_text())

    target = torch.tensor(Inputs.inputs["target_bbox_cxcywh"])
    shifted = target + torch.tensor([0.1, 0, 0, 0]) * (torch.arange(5) == 1)[:, None]
    every = _box_losses(Inputs, shifted, "pretrain_swin/bbox_loss_is_image_none")
    torch.testing.assert_close(every[0], torch.tensor(0.1 / 5))
    assert _box_losses(Inputs, shifted, "pretrain_swin/bbox_loss")[0] == 0
    degenerate = _box_losses(Inputs, target, "pretrain_swin/bbox_loss_degenerate")
    torch.testing.assert_close(degenerate, torch.tensor([(target[0, 2] + 0.1) / 4, 0.0]))
