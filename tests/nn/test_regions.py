import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wordregion.nn.fusion import FusionEncoder
from wordregion.nn.regions import Views, encode_views, patch_mask, pool_regions
from wordregion.nn.vision import TimmVision

SMALL_VIT = {"patch_size": 8, "embed_dim": 32, "depth": 5, "num_heads": 2}
SMALL_SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 2}
BACKBONES = {
    "vit_tiny_patch16_224": SMALL_VIT,
    "vit_base_patch16_clip_quickgelu_224": SMALL_VIT,
    "swin_base_patch4_window7_224": SMALL_SWIN,
    "eva02_tiny_patch14_224": SMALL_VIT,
    "resnet18": {},
}
WHOLE = (0.0, 0.0, 1.0, 1.0)
BOX = (0.1, 0.1, 0.4, 0.9)


def vision(name):
    torch.manual_seed(0)
    return TimmVision(name, 64, settings=BACKBONES[name]).eval()


def encode(encoder, *boxes, images=1):
    pixels = torch.randn(images, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return encode_views(encoder, pixels, torch.tensor(boxes).view(-1, 4), torch.zeros(len(boxes)).long()), pixels


@pytest.mark.parametrize(
    ("box", "columns", "rows"),
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 4), (0, 4)),
        ((0.25, 0.5, 0.5, 0.75), (1, 2), (2, 3)),  # the very edges of a patch
        ((0.24, 0.5, 0.51, 0.75), (0, 3), (2, 3)),
        ((1.0, 1.0, 1.0, 1.0), (3, 4), (3, 4)),
        ((0.3, 0.3, 0.3, 0.3), (1, 2), (1, 2)),  # without size
        ((-0.2, 0.9, 0.1, 1.2), (0, 1), (3, 4)),
    ],
)
def test_a_box_takes_every_patch_it_touches(box, columns, rows):
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    mask = patch_mask(torch.tensor([box]), 4)
    assert mask[0, 0]
    assert torch.equal(mask[0, 1:].view(4, 4), expected)


@pytest.mark.parametrize("grid", [7, 12, 14])
def test_boxes_that_end_between_patches_survive_rounding(grid):
    edges = torch.arange(grid + 1, dtype=torch.float32) / grid
    boxes = torch.stack([edges[:-1], edges[:-1], edges[1:], edges[1:]], 1)
    masks = patch_mask(boxes, grid)[:, 1:]
    assert (masks.sum(1) == 1).all()
    assert torch.equal(masks.int().argmax(1), torch.arange(grid) * (grid + 1))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_regions_of_its_images(name):
    encoder = vision(name)
    views, pixels = encode(encoder, BOX, images=2)
    with torch.no_grad():
        image = encoder(pixels)
    torch.testing.assert_close(views.tokens[:2], image)
    assert views.tokens.shape == (3, *image.shape[1:])
    assert views.mask[:2].all()
    assert torch.equal(views.mask[2:], patch_mask(torch.tensor([BOX]), encoder.grid))
    assert not torch.allclose(views.tokens[2, 0], image[0, 0], atol=1e-3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_base_patch4_window7_224", "resnet18"])
def test_the_region_of_the_whole_image_is_the_image(name):
    views, _ = encode(vision(name), WHOLE)
    torch.testing.assert_close(views.tokens[1], views.tokens[0])


def test_without_regions_nothing_is_masked():
    views, _ = encode(vision("resnet18"))
    assert views.mask is None
    assert len(views.tokens) == 1


def test_a_pooled_summary_is_the_mean_inside_the_box():
    image = torch.arange(2 * 17.0).view(2, 17, 1)
    box = torch.tensor([(0.0, 0.5, 0.5, 0.75)])
    views = pool_regions(image, box, torch.tensor([1]), 4)
    assert views.tokens[2, 0] == image[1, 1:].view(4, 4)[2, :2].mean()
    assert torch.equal(views.tokens[2, 1:], image[1, 1:])


def test_a_vits_region_sees_nothing_outside_its_box():
    """Tokens outside the box, changed before the local layers, change the region's summary not at all."""
    encoder = vision("vit_tiny_patch16_224")
    noise = torch.randn(1, 65, 32) * ~patch_mask(torch.tensor([BOX]), 8)[..., None]
    summaries = []
    for change in (torch.zeros_like(noise), noise):
        handle = encoder.body.blocks[0].register_forward_hook(lambda module, inputs, output, c=change: output + c)
        views, _ = encode(encoder, BOX, WHOLE)
        handle.remove()
        summaries.append(views.tokens[1:, 0])
    torch.testing.assert_close(summaries[0][0], summaries[1][0])
    assert not torch.allclose(summaries[0][1], summaries[1][1], atol=1e-3)


def test_the_image_is_encoded_once_for_all_its_regions():
    encoder = vision("vit_tiny_patch16_224")
    seen = []
    for block in encoder.body.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    encode(encoder, BOX, WHOLE, BOX)
    assert seen == [1, 1, 1, 1, 1, 3, 3, 3, 3]


def test_regions_get_gradients():
    encoder = vision("vit_tiny_patch16_224")
    pixels = torch.randn(1, 3, 64, 64)
    views: Views = encode_views(encoder, pixels, torch.tensor([BOX]), torch.tensor([0]))
    views.tokens[1].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_regions_of_an_image_share_its_keys_and_values():
    """The same states and gradients as without, and the patches projected once an image rather than once a region."""
    torch.manual_seed(0)
    encoder = FusionEncoder(width=16, image_width=24, layers=2, heads=2, dropout=0.0)
    text, mask = torch.randn(5, 4, 16), torch.ones(5, 4, dtype=torch.bool)
    box = torch.tensor([(0.0, 0.0, 0.5, 0.5), (0.2, 0.3, 0.9, 1.0), (0.0, 0.0, 1.0, 1.0)])
    found = []
    for share in (True, False):
        image = torch.randn(2, 10, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
        views = pool_regions(image, box, torch.tensor([1, 0, 1]), 3)
        assert views.shared is not None
        with FlopCounterMode(display=False) as counter:
            fused = encoder(
                text,
                mask,
                views.tokens,
                torch.arange(5),
                image_mask_IN=views.mask,
                shared=views.shared if share else None,
            )
        encoder.zero_grad()
        fused.hidden.square().sum().backward()
        gradients = [image.grad, *(p.grad.clone() for p in encoder.parameters())]
        found.append((fused.hidden, gradients, counter.get_total_flops()))
    torch.testing.assert_close(found[0][:2], found[1][:2])
    a_token = 2 * 24 * 32 * 2  # of two layers
    assert found[1][2] - found[0][2] == a_token * (5 * 10 - (2 * 9 + 5))
