import pytest
import torch

from tests.models.grounders import small_grounder
from wordregion.errors import CheckpointError, UsageError
from wordregion.models.adapt import adapt
from wordregion.models.grounder import Grounder, assemble
from wordregion.models.official import load_official
from wordregion.models.official_glip import GLIP, fill_glip, is_glip, official_names, to_glip
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


def test_the_released_layouts_have_names():
    assert set(GLIP) == {"glip/tiny_a", "glip/tiny", "glip/large"}
    with pytest.raises(UsageError, match="no image size"):
        load_official({}, "glip/tiny", image_size=384)
