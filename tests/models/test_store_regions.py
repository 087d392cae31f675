import torch

from wordregion.models.store import load_model, save_model
from wordregion.models.zoo import xvlm_tiny
from wordregion.nn.places import sine_places


def test_a_model_with_boxes_and_places_is_built_again(tmp_path):
    torch.manual_seed(0)
    model = xvlm_tiny(40, image_size=32, width=64, fusion_layers=1).eval()
    save_model(model, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert set(back.heads) == {"match", "mask", "box"}
    pixels, ids = torch.randn(1, 3, 32, 32), torch.tensor([[2, 7, 9]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    boxes = [m.heads["box"](m.fuse(m.encode_text(ids, mask), mask, m.encode_image(pixels)).cls) for m in (model, back)]
    torch.testing.assert_close(*boxes)
    assert ((boxes[0] > 0) & (boxes[0] < 1)).all()


def test_places_reach_the_fusion_and_not_the_contrast():
    torch.manual_seed(0)
    model = xvlm_tiny(40, image_size=32, width=64, fusion_layers=1).eval()
    image, ids = model.encode_image(torch.randn(1, 3, 32, 32)), torch.tensor([[2, 7, 9]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    text = model.encode_text(ids, mask)
    before = model.project_image(image), model.fuse(text, mask, image).cls
    with torch.no_grad():
        model.places[3] += 5
    after = model.project_image(image), model.fuse(text, mask, image).cls
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-4)


def test_no_two_places_are_alike():
    places = sine_places(7, 32)
    assert places.shape == (49, 32)
    distance = torch.cdist(places, places) + 10 * torch.eye(49)
    assert distance.min() > 0.5
    row, column = places.view(7, 7, 2, 16)[:, :, 1], places.view(7, 7, 2, 16)[:, :, 0]
    assert torch.equal(column[0], column[6])
    assert torch.equal(row[:, 0], row[:, 6])
