"""The example's conversion of published weights."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torchvision
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from wordregion.errors import UsageError
from wordregion.nn.vision import TimmVision
from wordregion.recipes.flickr_small import KERAS_MEAN

FILE = Path(__file__).parents[2] / "examples" / "flickr_small" / "prepare.py"
spec = importlib.util.spec_from_file_location("prepare", FILE)
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)


def channels(values):
    return torch.tensor(values)[:, None, None]


def test_torchvisions_mobilenet_gives_the_same_features_for_pixels_as_kerass_resnet_takes_them(tmp_path):
    torch.manual_seed(0)
    published = torchvision.models.mobilenet_v2().eval()
    for part in published.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    torch.save(published.state_dict(), tmp_path / "published.pth")
    prepare.mobilenet(tmp_path / "published.pth", tmp_path / "ours.safetensors")
    vision = TimmVision("mobilenetv2_100", 64, tmp_path / "ours.safetensors")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = published.features((images - channels(IMAGENET_DEFAULT_MEAN)) / channels(IMAGENET_DEFAULT_STD))
        found = vision(images - channels(KERAS_MEAN))[:, 1:]
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), atol=5e-3, rtol=1e-2)  # of the borders


def test_another_networks_file_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"other\.pth: not torchvision's MobileNetV2"):
        prepare.mobilenet(tmp_path / "other.pth", tmp_path / "ours.safetensors")
