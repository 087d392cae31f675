"""Grad-CAM against computations written out by hand on tiny models."""

import pytest
import torch
import torch.nn.functional as F

from wordregion.errors import UsageError
from wordregion.models.gradcam import (
    MatchAttention,
    match_attention,
    published_layer,
    resize,
    similarity_maps,
    text_maps,
    token_maps,
)
from wordregion.models.zoo import albef_tiny, albef_tiny_conv


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = albef_tiny(
        50, image_size=32, patch=8, width=64, vision_layers=3, text_layers=1, fusion_layers=3, embed=16
    ).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(pairs=3, images=2):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(images, 3, 32, 32, generator=generator)
    ids = torch.randint(5, 50, (pairs, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 4, 3])[:pairs, None]
    return pixels, ids * mask, mask, torch.tensor([0, 0, 1])[:pairs]


def encode(model, pixels, ids, mask):
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(ids, mask)


def test_gradient_is_that_of_the_match_logit_recomputed_from_the_attention(model):
    pixels, ids, mask, index = inputs()
    image, hidden = encode(model, pixels, ids, mask)
    found = match_attention(model, image, hidden, mask, index, layer=1)

    def logit(weight):
        x = model.fusion.layers[0](hidden, mask, image, index)[0]
        block = model.fusion.layers[1]
        x = block.attention.attend(x, *block.attention.project(x), mask[:, None, None, :])
        heads, width = block.cross.heads, x.shape[-1]
        value = block.cross.kv(image)[..., width:].unflatten(-1, (heads, -1)).transpose(1, 2)[index]
        looked = (weight @ value).transpose(1, 2).flatten(2)
        x = block.feed_forward(block.cross.norm(x + block.cross.out(looked)))
        x = model.fusion.layers[2](x, mask, image, index)[0]
        return model.heads["match"](x[:, 0])[:, 1].sum()

    weight = found.weight.clone().requires_grad_()
    value = logit(weight)
    (expected,) = torch.autograd.grad(value, weight)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found.gradient, expected)
    torch.testing.assert_close(found.logits[:, 1].sum(), value.detach())
    torch.testing.assert_close(found.weight.sum(-1), torch.ones_like(found.weight[..., 0]))


def test_maps_by_hand():
    weight = torch.tensor([[[[0.5, 0.1, 0.2, 0.1, 0.1], [0.2] * 5]], [[[0.2] * 5, [0.2] * 5]]]).repeat(1, 2, 1, 1)
    gradient = torch.tensor([9.0, 1.0, -1.0, 2.0, 0.0]).expand(2, 2, 2, 5).clone()
    gradient[:, 1] *= -1  # the second head has the opposite opinion
    mask = torch.tensor([[True, True], [True, False]])
    maps = token_maps(MatchAttention(weight, gradient, torch.zeros(2, 2)), mask)
    torch.testing.assert_close(maps[0, 0], torch.tensor([[0.05, 0.1], [0.1, 0.0]]))
    torch.testing.assert_close(maps[1, 0], torch.tensor([[0.1, 0.1], [0.2, 0.0]]))
    assert maps[1, 1].abs().sum() == 0
    torch.testing.assert_close(text_maps(maps, mask)[0], maps[0].mean(0))
    torch.testing.assert_close(text_maps(maps, mask)[1], maps[1, 0])
    torch.testing.assert_close(text_maps(maps, mask, original_behaviour=True)[1], maps[1, 0] / 2)
    torch.testing.assert_close(text_maps(maps, torch.tensor([[False, True]] * 2))[0], maps[0, 1])


def test_padding_and_the_other_pairs_change_nothing(model):
    pixels, ids, mask, index = inputs()
    image, hidden = encode(model, pixels, ids, mask)
    together = token_maps(match_attention(model, image, hidden, mask, index), mask)
    assert together.shape == (3, 6, 4, 4)
    for pair in range(3):
        length = int(mask[pair].sum())
        _, short = encode(model, pixels, ids[pair : pair + 1, :length], mask[pair : pair + 1, :length])
        only = mask[pair : pair + 1, :length]
        alone = token_maps(match_attention(model, image[index[pair]][None], short, only), only)
        torch.testing.assert_close(alone[0], together[pair, :length], atol=1e-7, rtol=1e-4)


def test_frozen_models_and_no_grad_give_the_same_maps_and_leave_no_gradients(model):
    pixels, ids, mask, index = inputs()
    image, hidden = encode(model, pixels, ids, mask)
    text = model.project_text(hidden, mask)
    first = match_attention(model, image, hidden, mask, index).gradient, similarity_maps(model, pixels, text, index)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.requires_grad_(False)
    with torch.no_grad():
        again = match_attention(model, image, hidden, mask, index).gradient, similarity_maps(model, pixels, text, index)
    torch.testing.assert_close(again, first)


def test_similarity_maps_of_a_vit_by_hand(model):
    """The image encoder written out with explicit attention in the chosen layer."""
    pixels, ids, mask, index = inputs()
    _, hidden = encode(model, pixels, ids, mask)
    text = model.project_text(hidden, mask).detach()
    fused_before = [block.attn.fused_attn for block in model.vision.blocks()]
    found = similarity_maps(model, pixels, text, index, layer=1)
    assert [block.attn.fused_attn for block in model.vision.blocks()] == fused_before
    body = model.vision.body
    for pair in range(3):
        x = body.patch_embed(pixels[index[pair]][None])
        x = torch.cat([body.cls_token, x], 1) + body.pos_embed
        x = body.blocks[0](x)
        block = body.blocks[1]
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).detach().requires_grad_()
        x = x + block.attn.proj((weight @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
        x = body.norm(body.blocks[2](x))
        score = F.cosine_similarity(model.image_proj(x[:, 0]), text[pair][None]).sum() / model.temperature
        (gradient,) = torch.autograd.grad(score.sum(), weight)
        expected = (weight[0, :, 0, 1:] * gradient[0, :, 0, 1:].clamp(min=0)).mean(0).view(4, 4)
        assert expected.max() > 1e-6
        torch.testing.assert_close(found[pair], expected.detach(), atol=1e-7, rtol=1e-3)


def test_similarity_maps_of_a_cnn_point_at_the_cell_that_holds_the_text():
    torch.manual_seed(0)
    model = albef_tiny_conv(50, image_size=64, width=64, embed=16).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        grid = model.encode_image(pixels)[:, 1:]
        feature = F.normalize(model.image_proj(grid[1, 11]) - model.image_proj(grid[1]).mean(0), dim=-1)
    index = torch.tensor([1, 0])
    maps = similarity_maps(model, pixels, torch.stack([feature, feature]), index)
    assert maps.shape == (2, 8, 8)
    assert int(maps[0].argmax()) == 11
    assert (maps >= 0).all()


@pytest.mark.parametrize("size", [64, 128])
def test_similarity_maps_of_a_cnn_by_hand_also_of_pictures_larger_than_its_own(size):
    torch.manual_seed(0)
    model = albef_tiny_conv(50, image_size=64, width=64, embed=16).eval()
    pixels, index = torch.randn(2, 3, size, size), torch.tensor([1, 0, 1])
    text = F.normalize(torch.randn(3, 16), dim=-1)
    maps = similarity_maps(model, pixels, text, index)
    assert maps.shape == (3, size // 8, size // 8)
    for pair, image in enumerate(index):
        cells = model.encode_image(pixels[image : image + 1]).detach()[0, 1:].requires_grad_()
        score = F.cosine_similarity(model.image_proj(cells.mean(0)), text[pair], dim=0) / model.temperature
        (gradient,) = torch.autograd.grad(score, cells)
        expected = (cells * gradient.mean(0)).sum(1).clamp(min=0).detach()
        assert expected.max() > 0
        torch.testing.assert_close(maps[pair].flatten(), expected)


def test_layers_out_of_range_and_the_published_one(model):
    pixels, ids, mask, index = inputs()
    image, hidden = encode(model, pixels, ids, mask)
    with pytest.raises(UsageError, match="layer 3: the fusion encoder has layers 0 to 2"):
        match_attention(model, image, hidden, mask, index, layer=3)
    with pytest.raises(UsageError, match="layer -1: the image encoder has layers 0 to 2"):
        similarity_maps(model, pixels, model.project_text(hidden, mask), index, layer=-1)
    assert [published_layer(n) for n in (1, 2, 3, 6, 12)] == [0, 0, 1, 2, 4]


def test_resize_keeps_constant_maps_and_the_place_of_a_peak():
    torch.testing.assert_close(resize(torch.full((1, 4, 4), 0.3), 20, 30), torch.full((1, 20, 30), 0.3))
    peak = torch.zeros(1, 4, 4)
    peak[0, 1, 2] = 1
    where = int(resize(peak, 40, 80).flatten().argmax())
    assert (where // 80 // 10, where % 80 // 20) == (1, 2)
