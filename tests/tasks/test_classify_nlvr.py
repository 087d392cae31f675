import pytest
import torch

from wordregion.errors import UsageError
from wordregion.models.zoo import albef_tiny, for_statements, for_two_images
from wordregion.schema import Batch
from wordregion.tasks.classify import Classify


def model(make=lambda m: for_two_images(m, "nlvr")):
    torch.manual_seed(0)
    return make(albef_tiny(40, image_size=32, width=64, vision_layers=1, text_layers=1, fusion_layers=1, embed=16))


def batch(texts=4, images=2):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (texts, 6), generator=generator)
    return Batch(
        image=torch.randn(texts * images, 3, 32, 32, generator=generator),
        image_key=torch.arange(texts).repeat_interleave(images),
        token_ids=ids,
        token_mask=torch.ones(texts, 6, dtype=torch.bool),
        text_image=torch.arange(texts) * images,
        target={"label": torch.arange(texts) % 2},
    )


def step(task, data, rate=0.1):
    output = task(data, task.counts(data))
    output.loss.backward()
    task.after_backward()
    with torch.no_grad():
        for parameter in task.model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
    task.after_step()
    return output


@pytest.mark.parametrize("images", [1, 2])
def test_the_loss_is_the_cross_entropy_and_goes_down(images):
    task = Classify("nlvr", distill=0.0).build(model(for_statements) if images == 1 else model()).eval()
    data = batch(images=images)
    first = step(task, data)
    assert first.loss.item() == pytest.approx(0.69, abs=0.3)
    assert 0 <= first.metrics["nlvr_accuracy"] <= 1
    for _ in range(30):
        last = step(task, data)
    assert last.loss < 0.3 * first.loss


def test_which_image_is_first_matters():
    task, data = Classify("nlvr", distill=0.0).build(model()).eval(), batch()
    turned = batch()
    turned.image = data.image.view(4, 2, 3, 32, 32).flip(1).reshape(8, 3, 32, 32)
    assert task(data, task.counts(data)).loss != task(turned, task.counts(turned)).loss


def test_distillation_mixes_label_and_teacher_by_hand():
    from wordregion.models.two_images import pair_logits

    task = Classify("nlvr", distill=0.4, ramp_steps=0).build(model()).eval()
    with torch.no_grad():
        task.teacher.heads["nlvr"].out.bias.add_(torch.tensor([1.0, -1.0]))
    data = batch()
    logits, taught = (pair_logits(m, data, m.encode_image(data.image)) for m in (task.model, task.teacher))
    expected = sum(
        -0.6 * row.log_softmax(0)[label] - 0.4 * (soft.softmax(0) * row.log_softmax(0)).sum()
        for row, soft, label in zip(logits, taught, data.target["label"], strict=True)
    )
    torch.testing.assert_close(task(data, task.counts(data)).loss, expected / 4)


def test_the_teachers_weight_ramps_and_the_teacher_follows():
    task, seen = Classify("nlvr", distill=0.4, ramp_steps=2, momentum=0.5).build(model()), []
    task.train()
    assert not task.teacher.training
    for _ in range(4):
        seen.append(task.distill_weight())
        before = [p.clone() for p in task.teacher.parameters()]
        step(task, batch())
        for old, new, student in zip(before, task.teacher.parameters(), task.model.parameters(), strict=True):
            torch.testing.assert_close(new, (old + student) / 2)
    assert seen == pytest.approx([0, 0.2, 0.4, 0.4])
    assert all(p.grad is None for p in task.teacher.parameters())


def test_accumulated_parts_have_the_loss_of_the_whole():
    task, whole = Classify("nlvr", distill=0.4, ramp_steps=0).build(model()).eval(), batch(4)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        texts = len(whole.token_ids[rows])
        parts.append(
            Batch(
                image=whole.image[2 * rows.start : 2 * rows.stop],
                image_key=whole.image_key[2 * rows.start : 2 * rows.stop],
                token_ids=whole.token_ids[rows],
                token_mask=whole.token_mask[rows],
                text_image=torch.arange(texts) * 2,
                target={"label": whole.target["label"][rows]},
            )
        )
    totals = task.counts(whole)
    torch.testing.assert_close(sum(task(part, totals).loss for part in parts), task(whole, totals).loss)


def test_a_frozen_image_encoder_runs_once(monkeypatch):
    frozen = model()
    frozen.vision.requires_grad_(False)
    task = Classify("nlvr", distill=0.4, ramp_steps=0).build(frozen).eval()
    monkeypatch.setattr(task.teacher, "encode_image", lambda image: pytest.fail("encoded again"))
    assert torch.isfinite(task(batch(), torch.tensor([4.0])).loss)


@pytest.mark.parametrize("wrong", [{"momentum": 1.5}, {"distill": -0.1}, {"ramp_steps": -1}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        Classify("nlvr", **wrong)
