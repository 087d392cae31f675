import pytest
import torch
from torchvision.ops import deform_conv2d

from wordregion.nn.deform import sampled_conv
from wordregion.nn.dyhead import read_as


@pytest.mark.parametrize(("size", "stride"), [((7, 5), 1), ((6, 9), 2), ((1, 2), 1), ((3, 3), 2)])
def test_sampling_is_torchvisions_kernel_with_its_gradients(size, stride):
    generator = torch.Generator().manual_seed(1)
    height, width = size
    h, w = -(-height // stride), -(-width // stride)
    x = torch.randn(2, 6, height, width, generator=generator, dtype=torch.double)
    offset = 3 * torch.randn(2, 18, h, w, generator=generator, dtype=torch.double)  # many taps leave the map
    mask = torch.rand(2, 9, h, w, generator=generator, dtype=torch.double)
    weight = torch.randn(4, 6, 3, 3, generator=generator, dtype=torch.double)
    bias = torch.randn(4, generator=generator, dtype=torch.double)
    results = []
    for ours in (True, False):
        inputs = [part.clone().requires_grad_() for part in (x, offset, mask, weight, bias)]
        if ours:
            y = sampled_conv(*inputs, stride)
        else:
            y = deform_conv2d(inputs[0], inputs[1], inputs[3], inputs[4], stride, padding=1, mask=inputs[2])
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append([y, *(part.grad for part in inputs)])
    for own, theirs in zip(*results, strict=True):
        torch.testing.assert_close(own, theirs)


def test_a_map_is_read_as_flat_memory():
    wide = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    small = read_as(wide, (2, 3))
    assert small[1].flatten().tolist() == list(range(60, 78))
