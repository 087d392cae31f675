import pytest
import torch

from tests.models.grounders import WIDTH, small_grounder
from wordregion.errors import CheckpointError, UsageError
from wordregion.models.adapt import adapt, load_prompt, save_prompt

IDS, MASK = torch.tensor([[2, 11, 12, 3]]), torch.ones(1, 4, dtype=torch.bool)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_each_mode_trains_its_parameters():
    model = small_grounder()
    everything = {name for name, _ in model.named_parameters()}
    assert trained(adapt(model, "full")) == everything
    assert len(trained(adapt(model, "linear"))) == 9
    assert trained(adapt(model, "prompt")) == {"offset.weight"}
    assert all(name.startswith("text.") for name in trained(adapt(model, "text")))
    with pytest.raises(UsageError, match="unknown mode 'head'"):
        adapt(model, "head")


def test_a_prompt_is_saved_and_loaded_alone_and_can_be_exchanged(tmp_path):
    model = small_grounder().eval()
    with torch.no_grad():
        plain = model.encode_text(IDS, MASK)
        adapt(model, "prompt").offset.weight[:4] = torch.randn(4, WIDTH)
        tuned = model.encode_text(IDS, MASK)
        save_prompt(model, tmp_path / "prompt.safetensors")
        assert torch.equal(load_prompt(model, None).encode_text(IDS, MASK), plain)
        assert torch.equal(load_prompt(model, tmp_path / "prompt.safetensors").encode_text(IDS, MASK), tuned)
    assert not torch.equal(plain, tuned)
    assert (tmp_path / "prompt.safetensors").stat().st_size < 2000


def test_prompts_that_are_none_are_refused(tmp_path):
    model = small_grounder()
    with pytest.raises(UsageError, match="no tuned prompt"):
        save_prompt(model, tmp_path / "none.safetensors")
    torch.save({"offset.weight": torch.zeros(3, WIDTH + 1)}, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=f"of width {WIDTH}"):
        load_prompt(model, tmp_path / "wide.pth")
