import timm
import torch

from wordregion.nn.pyramid import FeaturePyramid, TimmPyramid, level_sizes
from wordregion.nn.swin import swin_stages

SMALL = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}


def swin():
    torch.manual_seed(0)
    return timm.create_model(
        "swin_tiny_patch4_window7_224", always_partition=True, strict_img_size=False, **SMALL
    ).eval()


def test_where_windows_fit_swin_is_timms():
    body, image = swin(), torch.randn(2, 3, 64, 96)
    theirs = body.forward_intermediates(image, intermediates_only=True)
    for own, other in zip(swin_stages(body, image), theirs, strict=True):
        torch.testing.assert_close(own.permute(0, 3, 1, 2), other)


def test_where_windows_do_not_fit_a_map_is_padded_before_the_shift():
    body, image = swin(), torch.randn(1, 3, 64, 64 + 4)
    first, theirs = swin_stages(body, image)[0], body.layers[0](body.patch_embed(image))
    assert first.shape == theirs.shape
    assert not torch.allclose(first, theirs, atol=1e-4)
    padded = torch.nn.functional.pad(body.layers[0].blocks[0](body.patch_embed(image)), (0, 0, 0, 3))
    block = body.layers[0].blocks[1]
    x = block.norm1(padded[:, :, :17])
    x = torch.nn.functional.pad(x, (0, 0, 0, 3))
    expected = padded[:, :, :17] + block._attn(x)[:, :, :17]
    torch.testing.assert_close(first, expected + block.mlp(block.norm2(expected)))


def test_levels_have_the_sizes_that_anchors_expect():
    vision = TimmPyramid("convnext_atto", settings={"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)})
    levels = FeaturePyramid(vision.widths, 16)(vision(torch.randn(1, 3, 96, 160)))
    assert [tuple(level.shape[2:]) for level in levels] == level_sizes(96, 160) == level_sizes(65, 130)


def test_batch_normalisation_keeps_its_statistics_in_training():
    vision = TimmPyramid("mobilenetv2_050").train()
    before = vision.body.bn1.running_mean.clone()
    vision(torch.randn(2, 3, 64, 64))
    assert torch.equal(vision.body.bn1.running_mean, before)
