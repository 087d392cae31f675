"""From the folder of a run back to its model."""

from dataclasses import replace

import torch

from wordregion.models.store import save_model
from wordregion.models.zoo import albef_tiny_conv
from wordregion.recipes import albef_demo
from wordregion.runs import load_student


def test_a_finished_run_needs_nothing_but_itself(tmp_path):
    torch.manual_seed(0)
    model = albef_tiny_conv(50, image_size=32, width=64)
    save_model(model, tmp_path)

    def gone():
        raise FileNotFoundError("the weights that training started from")

    found, name = load_student(replace(albef_demo(), model=gone), tmp_path)
    assert name == "model.safetensors"
    assert not found.training
    for key, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
