import copy

import pytest
import torch

from wordregion.models.store import describe, load_model, save_model, start_from
from wordregion.models.zoo import albef_tiny, for_two_images
from wordregion.nn.fusion import FusionEncoder
from wordregion.nn.pair_fusion import PairFusion, one_image_name


def tiny():
    return albef_tiny(40, image_size=32, width=64, vision_layers=1, text_layers=1, fusion_layers=2, embed=16)


def inputs(pairs=3, length=5, tokens=4, width=16):
    torch.manual_seed(1)
    mask = torch.ones(pairs, length, dtype=torch.bool)
    mask[1, 3:] = False
    return torch.randn(pairs, length, width), mask, torch.randn(2 * pairs, tokens, width)


def fusion():
    torch.manual_seed(0)
    encoder = FusionEncoder(16, 16, layers=2, heads=2).eval()
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def test_blocks_alternate_between_the_images():
    """Against the one-image encoder, block by block."""
    single = fusion()
    pair = PairFusion(copy.deepcopy(single))
    x, mask, image = inputs()
    index = torch.tensor([[0, 3], [4, 1], [2, 2]])
    found = pair(x, mask, image, index).hidden
    for block in single.layers:
        for side in (0, 1):
            x, _ = block(x, mask, image[index[:, side]], None)
    torch.testing.assert_close(found, x)


def test_without_an_index_images_come_in_pairs():
    pair = PairFusion(fusion())
    x, mask, image = inputs()
    index = torch.arange(6).view(3, 2)
    torch.testing.assert_close(pair(x, mask, image).hidden, pair(x, mask, image, index).hidden)
    swapped = pair(x, mask, image, index.flip(1)).hidden
    assert (swapped - pair(x, mask, image).hidden).abs().max() > 1e-3


def test_the_attention_of_a_single_block_is_returned():
    pair = PairFusion(fusion())
    x, mask, image = inputs()
    for layer in range(4):
        weights = pair(x, mask, image, attention_layer=layer).attention
        assert weights.shape == (3, 2, 5, 4)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 5))
    assert pair(x, mask, image).attention is None


def test_a_pair_shares_keys_and_values_and_nothing_else():
    pair = PairFusion(fusion())
    for block in pair.layers:
        first, second = dict(block.first.named_parameters()), dict(block.second.named_parameters())
        assert {n for n in first if first[n] is second[n]} == {"cross.kv.weight", "cross.kv.bias"}
        assert all(torch.equal(first[n], second[n]) for n in first)
    twin = copy.deepcopy(pair)
    assert twin.layers[0].second.cross.kv is twin.layers[0].first.cross.kv
    assert twin.layers[0].first.cross.kv is not pair.layers[0].first.cross.kv


@pytest.mark.parametrize("head", ["nlvr", "assign"])
def test_a_trained_model_of_one_image_seeds_both_halves(tmp_path, head):
    trained = tiny()
    save_model(trained, tmp_path / "one")
    model = for_two_images(tiny(), head)
    report = start_from(model, tmp_path / "one", new=("heads.",), seed=one_image_name)
    assert report.new
    assert all(name.startswith(f"heads.{head}") for name in report.new)
    assert all(name.startswith("heads.") for name in report.ignored)
    state = model.state_dict()
    for name, value in trained.state_dict().items():
        if name.startswith("fusion."):
            start, layer, number, rest = name.split(".", 3)
            for half in ("first", "second"):
                assert torch.equal(state[f"{start}.{layer}.{number}.{half}.{rest}"], value)
        elif not name.startswith("heads."):
            assert torch.equal(state[name], value)
    save_model(model, tmp_path / "two")
    again = load_model(tmp_path / "two")
    assert describe(again) == describe(model)
    assert again.fusion.layers[1].second.cross.kv is again.fusion.layers[1].first.cross.kv
    for name, value in again.state_dict().items():
        assert torch.equal(value, state[name])


def test_text_assignment_hands_over_everything_but_its_head(tmp_path):
    save_model(for_two_images(tiny(), "assign"), tmp_path)
    report = start_from(for_two_images(tiny(), "nlvr"), tmp_path, new=("heads.",))
    assert set(report.ignored) == {"heads.assign.weight", "heads.assign.bias"}
    assert not report.renamed
