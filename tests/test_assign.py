import torch

from wordregion.assign import atss, centre_targets
from wordregion.nn.anchors import decode_boxes, encode_boxes, make_anchors, to_pixels, to_unit
from wordregion.nn.pyramid import LEVEL_STRIDES, level_sizes

LEVELS = make_anchors(level_sizes(256, 256), LEVEL_STRIDES)


def straightforward(box):
    """One box, by the paper's text."""
    anchors = torch.cat(LEVELS)
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2
    distance = (middle - (box[:2] + box[2:]) / 2).square().sum(1)
    chosen, first = [], 0
    for level in LEVELS:
        own = distance[first : first + len(level)].argsort(stable=True)[:9]
        chosen += (own + first).tolist()
        first += len(level)
    low = torch.maximum(anchors[chosen, :2], box[:2])
    high = torch.minimum(anchors[chosen, 2:], box[2:])
    both = (high - low + 1).clamp(min=0).prod(1)
    sizes = (anchors[chosen, 2:] - anchors[chosen, :2] + 1).prod(1) + (box[2:] - box[:2] + 1).prod()
    overlap = both / (sizes - both)
    inside = ((middle[chosen] > box[:2] + 0.01) & (middle[chosen] < box[2:] - 0.01)).all(1)
    taken = inside & (overlap >= overlap.mean() + overlap.std())
    return {c for c, t in zip(chosen, taken.tolist(), strict=True) if t}


def test_a_box_gets_the_anchors_of_the_paper():
    for box in ([30.3, 40.1, 118.9, 100.2], [3.1, 5.7, 17.3, 30.9], [10.2, 11.3, 241.1, 250.9]):
        box = torch.tensor(box)
        owner = atss(LEVELS, box[None])
        expected = straightforward(box)
        assert expected
        assert set(torch.nonzero(owner == 0).flatten().tolist()) == expected


def test_an_anchor_of_two_boxes_goes_to_the_nearer_fit_and_no_box_means_none():
    near, far = torch.tensor([30.3, 40.1, 93.7, 103.2]), torch.tensor([26.1, 36.2, 98.4, 108.9])
    alone = [set(torch.nonzero(atss(LEVELS, box[None]) == 0).flatten().tolist()) for box in (near, far)]
    both = atss(LEVELS, torch.stack([near, far]))
    assert alone[0] & alone[1]
    assert set(torch.nonzero(both >= 0).flatten().tolist()) == alone[0] | alone[1]
    assert (atss(LEVELS, torch.zeros(0, 4)) == -1).all()


def test_boxes_survive_their_coding():
    anchors = torch.cat(LEVELS)[::50]
    boxes = torch.rand(len(anchors), 4) * 60
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-3, rtol=1e-4)
    size = torch.tensor([200.0, 100.0])
    unit = torch.tensor([[0.1, 0.2, 0.5, 1.0]])
    assert to_pixels(unit, size)[0].tolist() == [10, 40, 49, 199]
    torch.testing.assert_close(to_unit(to_pixels(unit, size), 200, 100), unit)


def test_the_middle_is_central_and_the_edge_is_not():
    anchor = torch.tensor([[0.0, 0.0, 20.0, 20.0]]).expand(2, 4)
    box = torch.tensor([[0.0, 0.0, 20.0, 20.0], [9.0, 0.0, 29.0, 20.0]])
    torch.testing.assert_close(centre_targets(anchor, box), torch.tensor([1.0, (1 / 19) ** 0.5]))
