"""Images as principal components: what is kept, what the model makes of it, and the way to disk and back."""

import pytest
import torch
import torch.nn.functional as F

from wordregion.errors import UsageError
from wordregion.models.components import on_components
from wordregion.models.gradcam import match_attention, similarity_maps
from wordregion.models.store import load_model, save_model
from wordregion.models.zoo import albef_tiny_conv


def new_model():
    torch.manual_seed(0)
    return albef_tiny_conv(50, image_size=32, width=64).eval()


@pytest.fixture
def pixels():
    return torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def summaries(model, pixels):
    with torch.no_grad():
        return model.encode_image(pixels)[:, 0]


def test_an_image_is_a_token_of_uncorrelated_components_in_the_order_of_their_variance_and_one_of_zeros(pixels):
    model = new_model()
    before = summaries(model, pixels)
    kept = summaries(on_components(model, before, 5), pixels)
    tokens = model.encode_image(pixels)
    assert tokens.shape == (40, 2, 5)
    assert not tokens[:, 1].any()
    assert model.vision.width == 5
    torch.testing.assert_close(kept.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    covariance = kept.T.cov()
    torch.testing.assert_close(covariance.diagonal().mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert covariance.diagonal().diff().lt(0).all()
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), atol=1e-3, rtol=0)
    # no five directions hold more of the variance than a singular value decomposition finds
    spread = torch.linalg.svdvals(before - before.mean(0)).square() / 39
    torch.testing.assert_close(covariance.diagonal() / covariance[0, 0], spread[:5] / spread[0], atol=1e-3, rtol=1e-3)


def test_with_all_components_the_contrast_is_what_it_was(pixels):
    model = new_model()
    with torch.no_grad():
        before = model.project_image(model.encode_image(pixels))
        on_components(model, summaries(model, pixels), 39)  # 40 images vary in 39 directions
        torch.testing.assert_close(model.project_image(model.encode_image(pixels)), before, atol=1e-4, rtol=0)


def test_fusion_begins_without_looking_and_learns_to_look(pixels):
    model = new_model()
    on_components(model, summaries(model, pixels), 5)
    ids = torch.randint(5, 50, (4, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(4, 6, dtype=torch.bool)

    def fused(image):
        return model.fuse(model.encode_text(ids, mask), mask, image).hidden

    image = model.encode_image(pixels[:4]).detach()
    assert torch.equal(fused(image), fused(image.flip(0)))
    optimiser = torch.optim.SGD(model.fusion.parameters(), lr=0.1)
    target = torch.randn(4, 6, 64, generator=torch.Generator().manual_seed(3))
    for _ in range(2):
        optimiser.zero_grad()
        F.mse_loss(fused(image), target).backward()
        optimiser.step()
    assert not torch.allclose(fused(image), fused(image.flip(0)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_summaries_may_lie_anywhere(pixels):
    model = new_model()
    before = summaries(model, pixels)
    on_components(model.cuda(), before, 5)
    assert model.encode_image(pixels.cuda()).shape == (40, 2, 5)


def test_it_comes_back_from_disk(pixels, tmp_path):
    model = new_model()
    on_components(model, summaries(model, pixels), 5)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    torch.testing.assert_close(again.encode_image(pixels), model.encode_image(pixels), atol=0, rtol=0)


@pytest.mark.parametrize("components", [0, 40, 65])
def test_as_many_components_as_there_can_be(pixels, components):
    model = new_model()
    with pytest.raises(UsageError, match=f"{components} components of 40 images"):
        on_components(model, summaries(model, pixels), components)


def test_images_that_do_not_differ_and_a_second_time_are_refused(pixels):
    model = new_model()
    with pytest.raises(UsageError, match="same summary"):
        on_components(model, summaries(model, pixels[:1]).expand(40, -1), 5)
    on_components(model, summaries(model, pixels), 5)
    with pytest.raises(UsageError, match="already"):
        on_components(model, summaries(model, pixels), 3)
    placed = new_model()
    placed.places = torch.nn.Parameter(torch.zeros(1, placed.vision.width))
    with pytest.raises(UsageError, match="already"):
        on_components(placed, summaries(placed, pixels), 5)


def test_what_needs_places_is_refused(pixels):
    model = new_model()
    on_components(model, summaries(model, pixels), 5)
    image = torch.tensor([0])
    with pytest.raises(UsageError, match=r"regions: .* without places"):
        model.encode_views(pixels[:1], torch.tensor([[0.0, 0.0, 0.5, 0.5]]), image)
    ids, mask = torch.randint(5, 50, (1, 6)), torch.ones(1, 6, dtype=torch.bool)
    hidden = model.encode_text(ids, mask)
    with pytest.raises(UsageError, match=r"maps: .* without places"):
        match_attention(model, model.encode_image(pixels[:1]), hidden, mask, image)
    with pytest.raises(UsageError, match=r"maps: .* without places"):
        similarity_maps(model, pixels[:1], model.project_text(hidden, mask), image)


def test_how_much_a_text_takes_of_an_image_depends_on_both(pixels):
    model = new_model()
    on_components(model, summaries(model, pixels), 5)
    cross = model.fusion.layers[0].cross
    torch.nn.init.normal_(cross.kv.weight, generator=torch.Generator().manual_seed(4))
    image = model.encode_image(pixels[:2])
    text = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(5)) * 3

    def looked(text, image):  # (P, H, L) share of the attention that goes to the image
        return cross.attend(text, cross.keys_values(image), None, want_attention=True)[1][..., 0]

    with torch.no_grad():
        share = looked(text, image)
        other_text, other_image = looked(text.flip(1), image), looked(text, image.flip(0))
    assert share.std() > 0.1
    assert not torch.allclose(share, other_text, atol=0.1)
    assert not torch.allclose(share, other_image, atol=0.1)


def test_the_components_are_computed_in_fp32_under_bf16_autocast(pixels):
    model = new_model()
    on_components(model, summaries(model, pixels), 5)
    with torch.no_grad():
        features = model.vision.body.forward_features(pixels)
        expected = model.vision.tokens_of(features)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model.vision.tokens_of(features), expected, atol=0, rtol=0)
