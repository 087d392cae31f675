import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from wordregion.errors import CheckpointError, UsageError
from wordregion.nn.text import TextEncoder, bert_config, split_bert
from wordregion.nn.vision import TimmVision
from wordregion.nn.weights import read_weights

TINY_VIT = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "size", "grid", "settings"),
    [
        ("vit_tiny_patch16_224", 64, 4, TINY_VIT),
        ("swin_tiny_patch4_window7_224", 224, 7, {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}),
        ("mobilenetv2_050", 96, 3, {}),
        ("resnet18", 64, 2, {}),
    ],
)
def test_any_backbone_gives_a_summary_and_a_grid(name, size, grid, settings):
    vision = TimmVision(name, size, settings=settings).eval()
    tokens = vision(torch.randn(2, 3, size, size))
    assert tokens.shape == (2, 1 + grid * grid, vision.width)
    assert vision.grid == grid
    if vision.prefix_tokens == 0:
        torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1))


def test_batch_normalisation_never_depends_on_the_batch():
    vision = TimmVision("resnet18", 64).train()
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(vision(images)[:1], vision(images[:1]), rtol=1e-3, atol=1e-4)


def test_local_backbone_weights_load_and_a_partial_file_is_refused(tmp_path):
    body = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, **TINY_VIT)
    save_file(body.state_dict(), tmp_path / "vit.safetensors")
    vision = TimmVision("vit_tiny_patch16_224", 64, tmp_path / "vit.safetensors", settings=TINY_VIT)
    torch.testing.assert_close(vision.body.cls_token, body.cls_token)
    state = body.state_dict()
    del state["norm.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(norm\.weight\)"):
        TimmVision("vit_tiny_patch16_224", 64, tmp_path / "part.safetensors", settings=TINY_VIT)


def test_missing_and_damaged_weight_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such weight file"):
        read_weights(tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"readable weight file|unreadable"):
        read_weights(tmp_path / "bad.safetensors")
    torch.save({"model": print}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"code\.pth"):
        read_weights(tmp_path / "code.pth")


def _save_bert(folder):
    encoder = TextEncoder(bert_config(vocab_size=50, width=32, layers=3, heads=2))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**encoder.body.config.to_dict(), "model_type": "bert"}))
    save_file({f"bert.{n}": v.contiguous() for n, v in encoder.body.state_dict().items()}, folder / "model.safetensors")
    return encoder


def test_a_bert_splits_into_text_half_and_seeds(tmp_path):
    whole = _save_bert(tmp_path / "bert")
    half, upper, _ = split_bert(tmp_path / "bert", text_layers=2)
    assert len(half.blocks()) == 2
    assert len(upper) == 1
    expected = whole.body.encoder.layer[2].state_dict()
    torch.testing.assert_close(upper[0]["intermediate.dense.weight"], expected["intermediate.dense.weight"])
    with pytest.raises(CheckpointError, match="out of range"):
        split_bert(tmp_path / "bert", text_layers=4)


def test_summary_pools_real_tokens_only():
    encoder = TextEncoder(bert_config(50, 32, 1, 2), pool="mean")
    hidden, mask = torch.randn(2, 4, 32), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    torch.testing.assert_close(encoder.summary(hidden, mask)[0], hidden[0, :2].mean(0))


def test_subsampling_in_the_first_convolution_changes_the_tokens_but_not_the_grid():
    torch.manual_seed(0)
    late = TimmVision("resnet26", 64)
    for part in late.modules():  # timm starts the last norm of each branch at 0, and so every branch silent
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(part.weight)
    early = TimmVision("resnet26", 64, subsample_first=True)
    early.load_state_dict(late.state_dict())
    assert early.body.layer2[0].conv1.stride == (2, 2)
    assert early.body.layer2[0].conv2.stride == (1, 1)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert early.eval()(image).shape == late.eval()(image).shape
        assert not torch.allclose(early(image), late(image))


def test_backbones_side_by_side_give_the_channels_of_each(tmp_path):
    names, files = ("resnet18", "mobilenetv2_050"), (tmp_path / "first.safetensors", tmp_path / "second.safetensors")
    for name, file in zip(names, files, strict=True):
        save_file(timm.create_model(name).state_dict(), file)
    images = torch.randn(2, 3, 64, 64)
    alone = [TimmVision(name, 64, file)(images) for name, file in zip(names, files, strict=True)]
    both = TimmVision("+".join(names), 64, files)
    torch.testing.assert_close(both(images), torch.cat(alone, dim=2))
    assert (both.width, both.grid) == (512 + 1280, 2)
    assert len(both.blocks()) == sum(len(TimmVision(name, 64).blocks()) for name in names)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "resnet18+mobilenetv2_050"])
def test_folded_norms_leave_the_function_as_it_is(tmp_path, name):
    torch.manual_seed(0)
    files = []
    for one in name.split("+"):
        body = timm.create_model(one)
        for part in body.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                for values in (part.weight, part.running_var):
                    torch.nn.init.uniform_(values, 0.5, 1.5)
                for values in (part.bias, part.running_mean):
                    torch.nn.init.normal_(values)
        files.append(tmp_path / f"{one}.safetensors")
        save_file(body.state_dict(), files[-1])
    plain, folded = (TimmVision(name, 64, tuple(files), fold_norms=fold) for fold in (False, True))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(folded(images), plain(images), rtol=1e-4, atol=1e-4)
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in plain.modules())
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vit_tiny_patch16_224", {"fold_norms": True}, "fold_norms is for CNNs"),
        ("densenet121", {"fold_norms": True}, "fold_norms is for CNNs"),
        ("resnet18+resnet18", {"weights": ("one.safetensors",)}, "1 weight files for 2 backbones"),
        ("resnet18+vit_tiny_patch16_224", {}, "backbones side by side"),
        ("resnet18+swin_tiny_patch4_window7_224", {}, "a Swin can't stand beside another"),
        ("mobilenetv2_050", {"subsample_first": True}, "subsample_first is for a ResNet"),
    ],
)
def test_backbones_that_do_not_fit_are_refused(name, settings, message):
    with pytest.raises(UsageError, match=message):
        TimmVision(name, 224, **settings)
