import re

import pytest
import torch

from tests.models.grounders import small_grounder
from wordregion import cli
from wordregion.errors import CheckpointError, UsageError
from wordregion.models.adapt import adapt
from wordregion.models.grounder import Grounder, assemble
from wordregion.models.official import layout_of, load_official, official_checkpoint
from wordregion.models.official_glip import GLIP, fill_glip, glip_checkpoint, is_glip, official_names, to_glip
from wordregion.models.store import describable, load_model, save_model, start_from
from wordregion.nn.pyramid import TimmPyramid

IMAGE, IDS, MASK = torch.ones(1, 3, 64, 64), torch.tensor([[2, 11, 9, 12, 3]]), torch.ones(1, 5, dtype=torch.bool)


@pytest.mark.parametrize("kind", [{}, {"fused": False}, {"separator": 9}])
def test_a_detector_comes_back_from_disk(kind, tmp_path):
    model = adapt(small_grounder(2, **kind), "prompt").eval()
    torch.nn.init.normal_(model.offset.weight)
    assert describable(model)
    save_model(model, tmp_path)
    again = load_model(tmp_path, Grounder)
    with torch.no_grad():
        ours, theirs = (m(IMAGE, IDS, MASK).logits for m in (model, again))
    assert torch.equal(ours, theirs)
    with pytest.raises(CheckpointError, match="holds a detector"):
        load_model(tmp_path)


def test_a_checkpoint_of_the_original_fills_a_model_and_is_written_again(tmp_path):
    model, other = small_grounder(2, seed=1), small_grounder(2, seed=2)
    theirs = to_glip(model, dict(model.named_parameters()))
    assert is_glip(theirs)
    assert len(theirs) == sum(map(len, official_names(model).values()))
    torch.save({"model": {f"module.{name}": value for name, value in theirs.items()}}, tmp_path / "glip.pth")
    report = start_from(other, tmp_path / "glip.pth")
    assert not report.new
    assert not report.ignored
    for name, value in model.named_parameters():
        assert torch.equal(other.get_parameter(name), value), name
    del theirs["rpn.head.bias0"]
    with pytest.raises(CheckpointError, match=r"1 missing \(head.bias\)"):
        fill_glip(other, theirs, "a file")


def test_colours_are_exchanged_and_stages_counted_as_the_original_does():
    """The first convolution of a Swin sees red where the original's sees blue."""
    small = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    vision = TimmPyramid("swin_tiny_patch4_window7_224", settings=small)
    model = assemble(vision, small_grounder().text, 1, 32, attention=None)
    theirs = to_glip(model, dict(model.named_parameters()))
    patches = model.vision.body.patch_embed.proj.weight
    assert torch.equal(theirs["backbone.body.patch_embed.proj.weight"], patches.flip(1))
    assert theirs["backbone.body.layers.2.downsample.reduction.weight"].shape == (128, 256)
    before = patches.detach().clone()
    fill_glip(model, theirs, "a file")
    assert torch.equal(patches, before)


@pytest.fixture
def released(monkeypatch):
    """A single layout, of a small Swin."""
    for layout in ("glip/tiny_a", "glip/large"):
        monkeypatch.delitem(GLIP, layout)
    monkeypatch.setitem(GLIP, "glip/tiny", lambda: swin(seed=1))


def swin(seed=0):
    torch.manual_seed(seed)
    small = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    vision = TimmPyramid("swin_tiny_patch4_window7_224", settings=small)
    return assemble(vision, small_grounder().text, 2, 32, 64, heads=2)


def test_the_command_converts_there_and_back(tmp_path, released, capsys):
    theirs = glip_checkpoint(swin())
    theirs |= {name: torch.randn_like(value) for name, value in theirs.items() if value.is_floating_point()}
    torch.save({"model": {f"module.{name}": value for name, value in theirs.items()}}, tmp_path / "glip.pth")
    assert cli.main(["convert", str(tmp_path / "glip.pth"), "--as", "glip/tiny", str(tmp_path / "ours")]) == 0
    assert cli.main(["convert", str(tmp_path / "ours"), str(tmp_path / "again.pth"), "--to-official"]) == 0
    assert "(glip/tiny)" in capsys.readouterr().out
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert again.keys() == theirs.keys()
    made = re.compile(r"rpn\.(head\.cls_logits|anchor_generator)\.")
    for name, value in theirs.items():
        assert again[name].shape == value.shape
        assert again[name].dtype == value.dtype
        assert bool(made.match(name)) or torch.equal(again[name], value), name


def test_a_tuned_prompt_is_written_too_and_other_sizes_are_refused(released):
    model = adapt(swin(), "prompt")
    assert layout_of(model) == "glip/tiny"
    assert torch.equal(official_checkpoint(model, "glip/tiny")["rpn.tunable_linear.weight"], model.offset.weight)
    with pytest.raises(CheckpointError, match="convnext_atto with 2 layers without fusion has no released layout"):
        layout_of(small_grounder(2, fused=False))


def test_constants_are_the_originals():
    """Anchors of 8 strides, with their last row and column; places of Swin's windows by row and column."""
    theirs = glip_checkpoint(swin())
    assert theirs["rpn.anchor_generator.cell_anchors.0"].tolist() == [[-28, -28, 35, 35]]
    assert theirs["rpn.anchor_generator.cell_anchors.4"].tolist() == [[-448, -448, 575, 575]]
    index = theirs["backbone.body.layers.1.blocks.0.attn.relative_position_index"]
    assert index.shape == (49, 49)
    assert index[0, 0] == 6 * 13 + 6
    assert index[0, -1] == 0
    assert index[-1, 0] == 12 * 13 + 12


def test_the_released_layouts_have_names():
    assert set(GLIP) == {"glip/tiny_a", "glip/tiny", "glip/large"}
    with pytest.raises(UsageError, match="no image size"):
        load_official({}, "glip/tiny", image_size=384)
