import pytest
import torch

from wordregion.errors import UsageError
from wordregion.losses.answers import weighted_answer_loss
from wordregion.models.zoo import albef_tiny, for_questions
from wordregion.schema import Batch
from wordregion.tasks.answer import Answer


def small():
    torch.manual_seed(0)
    model = albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    return for_questions(model)


def batch(rows=slice(0, 3)):
    """Three questions with two, one and two answers of one or two words."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (3, 6), generator=generator)
    image = torch.randn(3, 3, 32, 32, generator=generator)
    answers = torch.tensor([[2, 7, 3, 0], [2, 8, 9, 3], [2, 7, 3, 0], [2, 10, 3, 0], [2, 11, 12, 3]])
    owner, weight = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0.7, 0.3, 1.0, 0.5, 0.5])
    kept = torch.isin(owner, torch.arange(3)[rows])
    first = torch.arange(3)[rows][0]
    count = len(ids[rows])
    return Batch(
        image=image[rows],
        image_key=torch.arange(count),
        token_ids=ids[rows],
        token_mask=torch.ones(count, 6, dtype=torch.bool),
        text_image=torch.arange(count),
        target={
            "answer_ids": answers[kept],
            "answer_mask": answers[kept] != 0,
            "answer_weight": weight[kept],
            "answer_text": owner[kept] - first,
        },
    )


def test_the_loss_is_the_weighted_sum_of_each_answers_tokens_over_the_questions():
    task = Answer(distill=0.0).build(small()).eval()
    data = batch()
    output = task(data, task.counts(data))
    expected = 0.0
    decoder = task.model.heads["answer"]
    with torch.no_grad():
        for row in range(5):
            q = int(data.target["answer_text"][row])
            image = task.model.encode_image(data.image[q : q + 1])
            text = task.model.encode_text(data.token_ids[q : q + 1], data.token_mask[q : q + 1])
            state = task.model.fuse(text, data.token_mask[q : q + 1], image).hidden
            ids = data.target["answer_ids"][row][data.target["answer_mask"][row]][None]
            log = decoder.head(decoder(ids, ids > 0, state, data.token_mask[q : q + 1]))[0].log_softmax(-1)
            tokens = sum(-log[i, token].item() for i, token in enumerate(ids[0, 1:]))
            expected += float(data.target["answer_weight"][row]) * tokens
    assert output.loss.item() == pytest.approx(expected / 3, rel=1e-4)
    assert task.counts(data).tolist() == [3, 12]


def test_weighted_sum():
    loss = weighted_answer_loss(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 1]), torch.tensor([0.5, 0.25]))
    assert loss.item() == 0.5 + 0.25 * 6


def test_micro_batches_add_up_to_the_gradient_of_the_whole():
    task = Answer(distill=0.0).build(small()).eval()
    whole = batch()
    totals = task.counts(whole)
    task(whole, totals).loss.backward()
    expected = {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
    task.zero_grad()
    for rows in (slice(0, 1), slice(1, 3)):
        task(batch(rows), totals).loss.backward()
    assert len(expected) > 50
    for name, parameter in task.model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_the_teacher_is_a_copy_of_the_whole_model_and_changes_the_loss():
    task = Answer(distill=0.4, ramp_steps=2, momentum=0.5).build(small()).train()
    assert not task.teacher.training
    data = batch()
    seen = []
    for _ in range(3):
        seen.append(task.distill_weight())
        task(data, task.counts(data)).loss.backward()
        with torch.no_grad():
            for parameter in task.model.parameters():
                parameter.add_(0.01)
        task.after_step()
    assert seen == pytest.approx([0.0, 0.2, 0.4])
    assert all(p.grad is None for p in task.teacher.parameters())
    pairs = zip(task.teacher.parameters(), task.model.parameters(), strict=True)
    gaps = [(mine - theirs).abs().max().item() for mine, theirs in pairs]
    assert gaps == pytest.approx([0.00875 - 0.0] * len(gaps), abs=1e-5)
    task.eval()
    with_teacher = task(data, task.counts(data)).loss
    task.step.zero_()
    assert not torch.isclose(task(data, task.counts(data)).loss, with_teacher)


def test_without_distillation_there_is_no_teacher():
    task = Answer(distill=0.0).build(small())
    assert task.teacher is None
    assert len(task.blocks()) == len(task.model.blocks())
    task.train()
    task.after_step()


def test_a_frozen_image_encoder_runs_once(monkeypatch):
    model = small().eval()
    model.vision.requires_grad_(False)
    task = Answer(distill=0.4, ramp_steps=0).build(model).eval()
    monkeypatch.setattr(task.teacher, "encode_image", lambda image: pytest.fail("encoded again"))
    assert torch.isfinite(task(batch(), task.counts(batch())).loss)


@pytest.mark.parametrize("wrong", [{"momentum": 1.5}, {"distill": -0.1}, {"ramp_steps": -1}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        Answer(**wrong)


def test_a_model_without_decoder_is_refused():
    model = albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    with pytest.raises(UsageError, match="for_questions"):
        Answer().build(model)
