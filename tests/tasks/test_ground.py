import hashlib
from dataclasses import replace

import pytest
import torch

from tests.models.grounders import small_grounder
from wordregion.errors import UsageError
from wordregion.models.adapt import adapt
from wordregion.models.detect import detect
from wordregion.objectives.ground import Boxes, Words
from wordregion.schema import Batch
from wordregion.tasks.ground import Ground, assign


def batch(images=2, boxes=True):
    """A bright square in each picture; token 1 names it, token 2 doesn't."""
    torch.manual_seed(1)
    image, box = 0.1 * torch.randn(images, 3, 64, 96), []
    for row in range(images):
        x, y = 8 + 24 * row, 8 + 8 * row
        image[row, :, y : y + 40, x : x + 40] += 2
        box.append([x / 96, y / 64, (x + 40) / 96, (y + 40) / 64])
    count = images if boxes else 0
    return Batch(
        image=image,
        image_key=torch.arange(images),
        image_size=torch.tensor([[64, 96]] * images),
        token_ids=torch.tensor([[2, 11, 12, 3, 0]] * images),
        token_mask=torch.tensor([[True] * 4 + [False]] * images),
        text_image=torch.arange(images),
        grounding_text=torch.arange(count),
        grounding_tokens=torch.tensor([[False, True, False, False, False]]).expand(count, 5),
        box=torch.tensor(box)[:count].reshape(-1, 4),
        box_grounding=torch.arange(count),
    )


def test_a_small_detector_learns_one_batch_and_finds_its_boxes():
    model = small_grounder()
    task, data = Ground().build(model).train(), batch()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    totals = task.counts(data)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        output = task(data, totals)
        output.loss.backward()
        optimiser.step()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    task.eval()
    with torch.no_grad():
        grounded = model(data.image, data.token_ids, data.token_mask, data.text_image)
    rows = torch.tensor([[False, True, False, False, False], [False, False, True, False, False]])
    for row, found in enumerate(detect(grounded, [rows, rows], [(64, 96)] * 2)):
        best = found.score.argmax()
        assert found.label[best] == 0
        torch.testing.assert_close(found.unit_box()[best], data.box[row], atol=0.15, rtol=0)


def one_of(data, row):
    own = slice(row, row + 1)
    return replace(
        data,
        image=data.image[own],
        image_key=data.image_key[own],
        image_size=data.image_size[own],
        token_ids=data.token_ids[own],
        token_mask=data.token_mask[own],
        text_image=torch.zeros(1, dtype=torch.long),
        grounding_text=torch.zeros(1, dtype=torch.long),
        grounding_tokens=data.grounding_tokens[own],
        box=data.box[own],
        box_grounding=torch.zeros(1, dtype=torch.long),
    )


def test_micro_batches_weigh_what_the_whole_batch_weighs():
    task, whole = Ground().build(small_grounder()).eval(), batch()
    parts = [one_of(whole, 0), one_of(whole, 1)]
    totals = sum(task.counts(part) for part in parts)
    torch.testing.assert_close(totals, task.counts(whole))
    assert parts[0].box.shape == (1, 4)
    assert task.counts(parts[0])[0] > 0
    torch.testing.assert_close(sum(task(part, totals).loss for part in parts), task(whole, totals).loss)


def test_without_boxes_every_word_is_wrong_everywhere_and_gradients_are_finite():
    model = small_grounder()
    task, data = Ground().build(model), batch(boxes=False)
    data.grounding_tokens = None
    output = task(data, task.counts(data))
    output.loss.backward()
    assert output.metrics["boxes"] == output.metrics["centre"] == 0
    assert output.metrics["words"] > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_places_belong_to_the_text_of_their_box():
    found = assign(batch())
    assert set(found.pair.tolist()) == {0, 1}
    assert torch.equal(found.pair, found.owner)
    assert ((found.centre > 0) & (found.centre <= 1)).all()


def test_a_padded_picture_has_its_boxes_where_they_are():
    data = batch(1)
    wide = batch(1)
    wide.image = torch.nn.functional.pad(data.image, (0, 64, 0, 32))
    for own, other in zip(
        (assign(data).box, assign(data).anchor), (assign(wide).box, assign(wide).anchor), strict=True
    ):
        torch.testing.assert_close(own.unique(dim=0), other.unique(dim=0))


def test_prompt_tuning_moves_no_weight_of_the_model():
    model, data = small_grounder(), batch()
    task = Ground((Words(), Boxes())).build(adapt(model, "prompt")).train()
    assert not model.vision.training

    def digest():
        parts = [value.numpy().tobytes() for name, value in model.state_dict().items() if name != "offset.weight"]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    before = digest()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.25)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        output = task(data, task.counts(data))
        output.loss.backward()
        optimiser.step()
        losses.append(float(output.loss.detach()))
    assert digest() == before
    assert losses[-1] < losses[0]


def test_no_objective_is_an_error():
    with pytest.raises(UsageError, match="objectives is empty"):
        Ground(objectives=())
