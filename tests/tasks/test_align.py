import copy

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from wordregion.errors import UsageError
from wordregion.models.zoo import albef_tiny, for_word_regions
from wordregion.objectives import Contrast, MaskedWords, Match, WordRegion
from wordregion.schema import Batch
from wordregion.tasks.align import Align
from wordregion.tasks.queue import FeatureQueue
from wordregion.tasks.teacher import update_teacher
from wordregion.tasks.text_states import TextStates


def small():
    torch.manual_seed(0)
    return albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)


def batch(texts=4, per_image=1):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (texts, 8), generator=generator)
    labels = torch.full_like(ids, -100)
    labels[:, 3] = ids[:, 3]
    masked = ids.clone()
    masked[:, 3] = 4
    images = texts // per_image
    return Batch(
        image=torch.randn(images, 3, 32, 32, generator=generator),
        image_key=torch.arange(images),
        token_ids=ids,
        token_mask=torch.ones(texts, 8, dtype=torch.bool),
        text_image=torch.arange(images).repeat_interleave(per_image),
        masked_ids=masked,
        labels=labels,
    )


def step(task, data):
    output = task(data, task.counts(data))
    output.loss.backward()
    task.after_backward()
    task.after_step()
    return output


def test_one_fusion_pass_serves_all_objectives(monkeypatch):
    task = Align(queue_size=8, distill=0.0).build(small())
    calls = []
    fuse = task.model.fuse
    monkeypatch.setattr(task.model, "fuse", lambda *a, **k: calls.append(1) or fuse(*a, **k))
    output = step(task, batch())
    assert len(calls) == 1
    names = {"contrast", "match", "masked_words"}
    assert names < set(output.metrics)
    torch.testing.assert_close(output.loss.detach(), sum(output.metrics[name] for name in names))


def test_several_texts_an_image_and_every_parameter_gets_a_gradient():
    task = Align(objectives=(Contrast(same_image_positives=True), Match(), MaskedWords()), queue_size=8).build(small())
    step(task, batch(6, per_image=2))
    without = [n for n, p in task.model.named_parameters() if p.grad is None]
    assert without == []
    assert all(p.grad is None for p in task.teacher.parameters())


def test_a_batch_of_one_trains_without_negatives_and_says_so():
    task = Align(queue_size=8).build(small())
    with pytest.warns(UserWarning, match="no negatives"):
        output = step(task, batch(1))
    assert torch.isfinite(output.loss)


def test_the_teachers_weight_ramps_per_step():
    task = Align(queue_size=8, distill=0.4, ramp_steps=4).build(small())
    seen = []
    for _ in range(6):
        seen.append(task.distill_weight())
        step(task, batch())
    assert seen == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])


def test_teacher_follows_and_stays_in_evaluation_mode():
    task = Align(queue_size=8, momentum=0.9).build(small()).train()
    assert task.model.training
    assert not task.teacher.training
    before = copy.deepcopy(task.teacher)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(1)
    update_teacher(task.teacher, task.model, 0.9)
    for old, new in zip(before.parameters(), task.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_accumulated_halves_have_the_gradient_of_the_whole_for_masked_words():
    task = Align(objectives=(MaskedWords(),), queue_size=8, distill=0.0).build(small()).eval()
    whole = batch(4)
    task(whole, task.counts(whole)).loss.backward()
    expected = [p.grad.clone() for p in task.model.parameters() if p.grad is not None]
    task.zero_grad()
    totals = task.counts(whole)
    for rows in (slice(0, 1), slice(1, 4)):
        part = Batch(
            image=whole.image[rows],
            image_key=whole.image_key[rows],
            token_ids=whole.token_ids[rows],
            token_mask=whole.token_mask[rows],
            text_image=torch.arange(len(whole.token_ids[rows])),
            masked_ids=whole.masked_ids[rows],
            labels=whole.labels[rows],
        )
        task(part, totals).loss.backward()
    found = [p.grad for p in task.model.parameters() if p.grad is not None]
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_queue_is_a_ring_for_any_batch_size(size):
    queue, model = FeatureQueue(7, 2), []
    for number in range(9):
        entries = torch.arange(size) + number * size
        model.extend(entries.tolist())
        queue.push(entries[:, None].repeat(1, 2).float(), -entries[:, None].repeat(1, 2).float(), entries)
    assert sorted(queue.key_id.tolist()) == sorted(model[-7:])
    assert torch.equal(queue.image[:, 0], queue.key_id.float())
    assert torch.equal(queue.text[:, 1], -queue.key_id.float())


def test_more_new_entries_than_slots_keep_the_last():
    queue = FeatureQueue(3, 1)
    queue.push(torch.arange(8.0)[:, None], torch.arange(8.0)[:, None], torch.arange(8))
    assert sorted(queue.key_id.tolist()) == [5, 6, 7]


@pytest.mark.parametrize(
    "wrong",
    [{"objectives": ()}, {"momentum": 1.5}, {"distill": -0.1}, {"queue_size": -1}, {"summary_dropout": 1.0}],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        Align(**wrong)


def test_a_frozen_image_encoder_runs_once_for_student_and_teacher(monkeypatch):
    model = small().eval()
    model.vision.requires_grad_(False)
    task = Align(objectives=(Contrast(),), queue_size=8).build(model).eval()
    expected = task(batch(), task.counts(batch())).loss
    monkeypatch.setattr(task.teacher, "encode_image", lambda image: pytest.fail("encoded again"))
    torch.testing.assert_close(task(batch(), task.counts(batch())).loss, expected)
    model.vision.requires_grad_(True)
    monkeypatch.undo()
    torch.testing.assert_close(task(batch(), task.counts(batch())).loss, expected)


@pytest.mark.parametrize(
    ("setting", "frozen", "other", "encode", "calls"),
    [
        ("keep_image_tokens", "vision", "text", "encode_image", {False: [4, 4], True: [4]}),
        # masked copies, drawn anew in each step, are encoded each time
        ("keep_text_states", "text", "vision", "encode_text", {False: [8, 8], True: [8, 4]}),
    ],
)
def test_what_is_kept_changes_nothing_and_is_encoded_once(monkeypatch, setting, frozen, other, encode, calls):
    results = []
    data = batch()
    data.token_mask[1:, 5:] = False
    for keep in (False, True):
        model = small()
        getattr(model, frozen).requires_grad_(False)
        task = Align(queue_size=8, **{setting: keep}).build(model).train()
        getattr(task.model, other).eval()
        seen = []
        whole = getattr(task.model, encode)
        monkeypatch.setattr(
            task.model, encode, lambda first, *rest, e=whole, s=seen: s.append(len(first)) or e(first, *rest)
        )
        torch.manual_seed(0)
        step(task, data)
        torch.manual_seed(0)
        results.append(step(task, data))
        assert seen == calls[keep]
    torch.testing.assert_close(results[0].loss, results[1].loss)


@pytest.mark.parametrize("momentum", [0.99, None])
def test_a_picture_whose_tokens_are_kept_needs_no_pixels(momentum):
    model = small()
    model.vision.requires_grad_(False)
    task = Align(queue_size=0, distill=0.0, momentum=momentum, keep_image_tokens=True).build(model).eval()
    data = batch()
    first = step(task, data)
    assert first.known.tolist() == [0, 1, 2, 3]
    data.image[1:3] = torch.nan
    torch.testing.assert_close(step(task, data).loss, first.loss)
    data.image[1], data.image_key[3] = 0.5, 9  # another picture of record 1, and record 9 shows that of record 3
    step(task, data)
    assert len(task._image_tokens) == 5


@pytest.mark.parametrize(("objective", "tokens"), [(Contrast(), 1), (WordRegion(), 17), (Match(), 17)])
def test_of_kept_tokens_those_are_copied_that_are_needed(objective, tokens):
    model = for_word_regions(small())
    model.vision.requires_grad_(False)
    results = []
    for keep in (False, True):
        task = Align(objectives=(objective,), queue_size=0, keep_image_tokens=keep).build(model).eval()
        results.append(task._scene(batch(), task.counts(batch())))
    assert results[1].image.shape[1] == tokens
    torch.testing.assert_close(results[0].image[:, :tokens], results[1].image)
    torch.testing.assert_close(results[0].image_feature, results[1].image_feature)


def test_pixels_are_needed_where_a_trained_encoder_or_its_teacher_looks_at_them():
    assert step(Align(queue_size=8).build(small()), batch()).known is None
    model = small()
    task = Align(queue_size=8, keep_image_tokens=True).build(model)
    assert task._image_tokens.known(model, task.teacher, batch()) is None
    assert task._image_tokens.known(model, None, batch()) is not None
    model.vision.requires_grad_(False)
    assert task._image_tokens.known(model, task.teacher, batch()) is not None


def test_kept_image_tokens_of_a_moving_encoder_are_refused():
    task = Align(queue_size=8, keep_image_tokens=True).build(small())
    with pytest.raises(UsageError, match="frozen image encoder"):
        step(task, batch())


def test_a_text_that_comes_twice_in_a_batch_is_encoded_once():
    model = small().eval().requires_grad_(False)
    ids, mask = torch.tensor([[7, 8, 0], [7, 8, 9], [7, 8, 0]]), torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0]]).bool()
    wanted, states = model.encode_text(ids, mask), TextStates(keep=True)
    found = states(model, ids, mask)
    assert len(states) == 2
    torch.testing.assert_close(found[mask], wanted[mask])
    torch.testing.assert_close(states(model, ids[:1, :2], mask[:1, :2]), found[:1, :2])


def test_short_texts_are_not_encoded_at_the_length_of_long_ones(monkeypatch):
    model = small().eval().requires_grad_(False)
    length = torch.tensor([3, 8] * 32)
    ids, mask = torch.randint(5, 40, (64, 8)), torch.arange(8) < length[:, None]
    ids[:, 0], ids[:, 1] = torch.arange(64) % 8, torch.arange(64) // 8  # no two alike
    wanted, seen, encode = model.encode_text(ids, mask), [], model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda i, m: seen.append(tuple(i.shape)) or encode(i, m))
    found = TextStates(keep=True)(model, ids, mask, passing=range(40, 64))
    assert sorted(seen) == [(16, 3), (16, 3), (16, 8), (16, 8)]
    torch.testing.assert_close(found[mask], wanted[mask])


@pytest.mark.parametrize("setting", ["keep_image_tokens", "keep_text_states"])
def test_a_sharded_encoder_keeps_nothing(setting):
    """Processes that lack other texts would wait for each other."""
    model = small().requires_grad_(False)
    model.image_proj.requires_grad_(True)
    for part in (model.vision, model.text):
        part.__class__ = type("Sharded", (FSDPModule, type(part)), {})
    task = Align(objectives=(Contrast(),), queue_size=0, distill=0.0, momentum=None, **{setting: True}).build(model)
    with pytest.raises(UsageError, match=f"{setting} needs the whole encoder"):
        step(task, batch())


def test_kept_text_states_of_a_moving_encoder_are_refused():
    task = Align(queue_size=8, keep_text_states=True).build(small())
    with pytest.raises(UsageError, match="frozen text encoder"):
        step(task, batch())


def test_a_frozen_encoder_runs_once_for_student_and_teacher_and_without_dropout(monkeypatch):
    model = small()
    for part in (model.vision, model.text):
        part.requires_grad_(False)
    task = Align(objectives=(Contrast(),), queue_size=8).build(model).train()
    assert not task.model.text.training
    for name in ("encode_image", "encode_text"):
        monkeypatch.setattr(task.teacher, name, lambda *inputs: pytest.fail("the teacher encoded again"))
    step(task, batch())


def test_the_first_objective_is_alone_for_a_while():
    task = Align(queue_size=8, first_alone=1).build(small())
    assert "match" not in step(task, batch()).metrics
    assert task.model.fusion.layers[0].cross.q.weight.grad is None
    assert {"contrast", "match", "masked_words"} <= set(step(task, batch()).metrics)


@pytest.mark.parametrize(("first", "steps"), [(1, [0, 1]), (2, [0, 1, 2, 3])])
def test_an_objective_counts_its_own_steps(monkeypatch, first, steps):
    """A ramp of hardness begins when matching does."""
    seen = []
    pairs = Match.pairs
    monkeypatch.setattr(Match, "pairs", lambda self, scene: seen.append(scene.step) or pairs(self, scene))
    task = Align(queue_size=8, first_alone=2, first=first).build(small())
    for _ in range(4):
        step(task, batch())
    assert seen == steps


def test_what_fuses_is_trained_in_every_second_step_alone():
    task = Align(queue_size=8, fuse_every=2).build(small())
    fused = {"match", "masked_words"}
    for due in (True, False, True):
        task.zero_grad()
        assert set(step(task, batch()).metrics) & {"contrast", *fused} == (
            {"contrast", *fused} if due else {"contrast"}
        )
        assert (task.model.fusion.layers[0].cross.q.weight.grad is not None) == due


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"fuse_every": 0}, "is below 1"), ({"fuse_every": 2, "objectives": (Match(), Contrast())}, "nothing to train")],
)
def test_steps_without_fusion_need_something_to_train(settings, told):
    with pytest.raises(UsageError, match=told):
        Align(**settings)


@pytest.mark.parametrize("objective", [Contrast(), WordRegion(), Match(), MaskedWords()])
def test_an_objective_tells_what_it_needs(objective):
    task = Align(objectives=(objective,), queue_size=8).build(for_word_regions(small()))
    scene = task._scene(batch(), task.counts(batch()))
    assert (objective.pairs(scene) is not None) == (objective.needs == "fused")


@pytest.mark.parametrize(("rate", "training", "same"), [(0.5, True, False), (0.5, False, True), (0.0, True, True)])
def test_the_student_alone_misses_channels_of_a_summary_and_only_in_training(rate, training, same):
    task = Align(queue_size=0, summary_dropout=rate).build(small()).train(training)  # the teacher is still its copy
    scene = task._scene(batch(), task.counts(batch()))
    assert torch.allclose(scene.image_feature, scene.teacher_image_feature, atol=1e-5) == same
    torch.testing.assert_close(scene.image, task.model.encode_image(batch().image))  # what is fused misses nothing
