from dataclasses import replace

import pytest
import torch

import wordregion
from wordregion.cli import main
from wordregion.errors import CheckpointError, UsageError
from wordregion.models.fusion import FusionModel
from wordregion.models.official import (
    LAYOUTS,
    fill_official,
    layout_of,
    load_official,
    official_checkpoint,
    to_official,
)
from wordregion.models.report import resize_positions
from wordregion.models.store import start_from
from wordregion.models.zoo import (
    albef_tiny,
    for_boxes,
    for_captioning,
    for_entailment,
    for_locating,
    for_questions,
    for_retrieval,
    for_two_images,
)
from wordregion.nn.fusion import FusionEncoder
from wordregion.nn.vision import TimmVision

MAKERS = {
    "albef/pretrain": lambda model: model,
    "albef/retrieval": for_retrieval,
    "albef/entailment": for_entailment,
    "albef/vqa": for_questions,
    "albef/nlvr": lambda model: for_two_images(model, "nlvr"),
    "albef/nlvr_pretrain": lambda model: for_two_images(model, "assign"),
    "xvlm/pretrain_swin": lambda model: model,
    "xvlm/pretrain_clip": lambda model: model,
    "xvlm/retrieval": for_retrieval,
    "xvlm/bbox": for_locating,
    "xvlm/vqa": for_questions,
    "xvlm/captioning": for_captioning,
    "xvlm/nlvr": lambda model: for_two_images(model, "nlvr"),
    "xvlm/nlvr_pretrain": lambda model: for_two_images(model, "assign"),
}


def model(layout="albef/pretrain", seed=0, image_size=32):
    torch.manual_seed(seed)
    tiny = albef_tiny(40, image_size=image_size, width=32, vision_layers=1, text_layers=6, fusion_layers=2, embed=16)
    if layout.startswith("xvlm/"):
        vision = clip(image_size) if layout.endswith("clip") else swin(image_size)
        fusion = FusionEncoder(tiny.text.width, vision.width, layers=2, heads=1)
        tiny = for_boxes(FusionModel(vision, tiny.text, fusion, dict(tiny.heads.items()), embed=16))
    return MAKERS[layout](tiny)


def swin(image_size):
    small = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": image_size // 32}
    return TimmVision("swin_base_patch4_window7_224", image_size, settings=small)


def clip(image_size):
    small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 1}
    return TimmVision("vit_base_patch16_clip_quickgelu_224", image_size, settings=small)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_without_loss(layout):
    own, teacher, back = model(layout), model(layout, seed=1), model(layout, seed=2)
    released = official_checkpoint(own, layout, teacher)
    report = fill_official(back, released, layout, "file")
    lost = ("temperature", "image_proj.", "text_proj.") if report.new else ()
    assert all(name.startswith(lost) for name in report.new)
    for name, value in own.state_dict().items():
        if not (lost and name.startswith(lost)):
            assert torch.equal(back.state_dict()[name], value), name
    again = official_checkpoint(back, layout, teacher)
    assert again.keys() == released.keys()
    assert all(torch.equal(value, again[name]) for name, value in released.items())
    assert layout_of(own) == layout


def test_stacked_matrices_take_their_parts_in_order():
    names = LAYOUTS["albef/pretrain"].names
    assert names("fusion.layers.0.cross.kv.weight") == (
        "text_encoder.bert.encoder.layer.6.crossattention.self.key.weight",
        "text_encoder.bert.encoder.layer.6.crossattention.self.value.weight",
    )
    assert names("vision.body.norm.bias", momentum=True) == ("visual_encoder_m.norm.bias",)
    assert names("temperature", momentum=True) == ("temp",)
    assert LAYOUTS["albef/nlvr"].names("fusion.layers.1.second.attention.out.bias") == (
        "text_encoder.encoder.layer.9.attention.output.dense.bias",
    )
    assert LAYOUTS["albef/nlvr"].seeds("fusion.layers.1.second.attention.out.bias") == (
        "text_encoder.bert.encoder.layer.7.attention.output.dense.bias",
    )


def test_the_momentum_copy_fills_a_teacher():
    own, teacher, back = model(), model(seed=1), model(seed=2)
    report = fill_official(
        back, official_checkpoint(own, "albef/pretrain", teacher), "albef/pretrain", "file", momentum=True
    )
    assert torch.equal(back.text.word_embeddings.weight, teacher.text.word_embeddings.weight)
    assert torch.equal(back.heads["match"].weight, own.heads["match"].weight)  # has no copy
    assert "visual_encoder.cls_token" in report.ignored


def test_pretraining_fills_the_fine_tuning_models():
    released = official_checkpoint(model(), "albef/pretrain") | {"image_queue": torch.zeros(16, 8)}
    entail = model("albef/entailment", seed=1, image_size=48)
    report = fill_official(entail, released, "albef/entailment", "file")
    assert all(name.startswith("heads.entail.") for name in report.new)
    assert set(report.resized) == {"vision.body.pos_embed"}
    assert "image_queue" in report.ignored
    assert "text_encoder.cls.predictions.transform.dense.weight" in report.ignored
    answer = model("albef/vqa", seed=1)
    fill_official(answer, released, "albef/vqa", "file")
    for block, source in zip(answer.heads["answer"].layers, model().fusion.layers, strict=True):
        assert torch.equal(block.attention.qkv.weight, source.attention.qkv.weight)


def test_files_are_recognised_and_opened_safely(tmp_path):
    own = model("albef/retrieval")
    torch.save({"model": official_checkpoint(own, "albef/retrieval"), "epoch": 3}, tmp_path / "released.pth")
    back = model("albef/retrieval", seed=1)
    report = start_from(back, tmp_path / "released.pth")
    assert not report.new
    assert torch.equal(back.fusion.layers[0].cross.kv.weight, own.fusion.layers[0].cross.kv.weight)
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="refused, not plain tensors"):
        load_official(tmp_path / "code.pth", "albef/retrieval")


def test_a_missing_or_misshapen_tensor_is_named():
    theirs = official_checkpoint(model(), "albef/pretrain")
    with pytest.raises(CheckpointError, match=r"vision\.body\.cls_token \(1, 2, 32\) for \(1, 1, 32\)"):
        fill_official(model(), theirs | {"visual_encoder.cls_token": torch.zeros(1, 2, 32)}, "albef/pretrain", "file")
    del theirs["temp"]
    with pytest.raises(CheckpointError, match="missing \\(temperature"):
        fill_official(model(), theirs, "albef/pretrain", "file")
    with pytest.raises(UsageError, match="unknown checkpoint layout 'albef/ve'"):
        load_official(theirs, "albef/ve")
    with pytest.raises(CheckpointError, match=r"heads\.mask\.dense\.weight.*no such parameter"):
        to_official(model().state_dict(), "albef/retrieval")


def test_positions_keep_the_first_row_and_constants():
    table = torch.cat([torch.full((1, 1, 4), 7.0), torch.full((1, 16, 4), 2.0)], dim=1)
    bigger = resize_positions(table, 36)
    assert bigger.shape == (1, 37, 4)
    assert (bigger[:, 0] == 7).all()
    torch.testing.assert_close(bigger[:, 1:], torch.full((1, 36, 4), 2.0))


def test_the_command_converts_there_and_back(tmp_path, monkeypatch, capsys):
    layout = "albef/entailment"
    small = replace(LAYOUTS[layout], build=lambda size: model(layout, seed=3, image_size=size))
    monkeypatch.setitem(LAYOUTS, layout, small)
    own = model(layout)
    torch.save({"model": official_checkpoint(own, layout), "epoch": 4}, tmp_path / "ve.pth")
    assert (
        main(["convert", str(tmp_path / "ve.pth"), "--as", layout, str(tmp_path / "ours"), "--image-size", "32"]) == 0
    )
    assert "at constructor value: temperature" in capsys.readouterr().out
    back = wordregion.load_model(tmp_path / "ours")
    assert torch.equal(back.heads["entail"].out.weight, own.heads["entail"].out.weight)
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "again.pth"), "--to-official"]) == 0
    before, after = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("ve.pth", "again.pth"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert main(["convert", str(tmp_path / "ve.pth"), str(tmp_path / "x")]) == 2
    assert "give either --as KIND" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "ve.pth"), "--as", "albef/ve", str(tmp_path / "x")]) == 2
    assert "unknown checkpoint layout" in capsys.readouterr().err
