"""Replaced-word detection: the properties that make it what the paper describes."""

import numpy as np
import pytest
import torch

from wordregion.data.tokens import Masking, Tokenizer
from wordregion.errors import UsageError
from wordregion.losses.tokens import masked_word_loss, replaced_word_loss
from wordregion.models.zoo import albef_tiny, for_replaced_words
from wordregion.objectives import Contrast, MaskedWords, Match, ReplacedWords
from wordregion.objectives.replaced_words import draw_words, put_words
from wordregion.schema import Batch
from wordregion.tasks.align import Align

WORDS, CLS, PAD, MASK = 40, 2, 0, 4


def small():
    torch.manual_seed(0)
    model = albef_tiny(WORDS, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    return for_replaced_words(model)


def batch(masked_at=(2, 3), texts=4, length=8, real=6, seed=1):
    """Texts that begin with [CLS] and end in padding; the same words whatever is masked."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, WORDS, (texts, length), generator=generator)
    ids[:, 0], ids[:, real:] = CLS, PAD
    labels, masked = torch.full_like(ids, -100), ids.clone()
    for at in masked_at:
        labels[:, at], masked[:, at] = ids[:, at], MASK
    words = torch.zeros(texts, length, dtype=torch.bool)
    words[:, 1:real] = True
    return Batch(
        image=torch.randn(texts, 3, 32, 32, generator=generator),
        image_key=torch.arange(texts),
        token_ids=ids,
        token_mask=torch.arange(length).repeat(texts, 1) < real,
        text_image=torch.arange(texts),
        masked_ids=masked,
        labels=labels,
        words=words,
    )


def scene_of(task, data):
    return task._scene(data, task.counts(data))


def task_with(objective, distill=0.0):
    return Align(objectives=(objective,), queue_size=0, distill=distill).build(small()).eval()


def run(objective, data, task=None):
    task = task or task_with(objective)
    output = task(data, task.counts(data))
    return task, output


def one_after(weights):
    """Draws the word after the most probable one."""
    return (weights.argmax(1) + 1) % weights.shape[1]


def test_the_share_of_replaced_words_is_the_mask_rate_times_one_minus_the_hit_rate():
    tokenizer = Tokenizer("scenes", max_tokens=400)
    generator = torch.Generator().manual_seed(3)
    ordinary = torch.tensor(tokenizer.ordinary_ids)
    ids = ordinary[torch.randint(len(ordinary), (100, 400), generator=generator)]
    ids[:, 0] = tokenizer.cls_id
    rng = np.random.default_rng(0)
    labels = torch.stack([Masking(0.15, mask=1.0, random=0.0)(row, tokenizer, rng)[1] for row in ids])
    chosen = labels != -100
    # A generator that gives the truth 60 % and another word 40 %.
    truth = labels[chosen]
    logits = torch.full((len(truth), tokenizer.vocab_size), -1e4)
    logits[torch.arange(len(truth)), truth] = torch.tensor(0.6).log()
    logits[torch.arange(len(truth)), (truth + 1) % tokenizer.vocab_size] = torch.tensor(0.4).log()
    torch.manual_seed(0)
    drawn = draw_words(logits, 1.0)
    new, replaced = put_words(ids, labels, drawn)
    words = ids.numel() - len(ids)
    hit = (drawn == truth).float().mean()
    assert replaced.sum() / words == pytest.approx(float(chosen.sum() / words * (1 - hit)))
    assert replaced.sum() / words == pytest.approx(0.15 * 0.4, rel=0.05)  # and as the settings say
    assert torch.equal(new != ids, replaced)
    assert not replaced[~chosen].any()


def test_a_perfect_generator_at_temperature_zero_replaces_nothing():
    data = batch()
    truth = data.labels[data.labels != -100]
    logits = torch.randn(len(truth), WORDS)
    logits[torch.arange(len(truth)), truth] = 9.0
    for temperature in (0.0, 1e-3):
        new, replaced = put_words(data.token_ids, data.labels, draw_words(logits, temperature))
        assert torch.equal(new, data.token_ids)
        assert not replaced.any()


def test_drawn_originals_count_as_originals_in_the_loss(monkeypatch):
    data = batch()
    objective = ReplacedWords(weight=1.0, generator_weight=0.0, draw=lambda weights: data.labels[data.labels != -100])
    task = task_with(objective)
    seen = {}
    forward = task.model.heads["replaced"].forward
    monkeypatch.setattr(task.model.heads["replaced"], "forward", lambda x: seen.setdefault("logits", forward(x)))
    _, output = run(objective, data, task)
    expected = replaced_word_loss(seen["logits"], torch.zeros(len(seen["logits"]), dtype=torch.bool)).mean()
    torch.testing.assert_close(output.metrics["replaced_words"], expected.detach())
    assert output.metrics["generator_accuracy"] == 1


def test_special_and_padded_tokens_do_not_count(monkeypatch):
    data = batch()
    objective = ReplacedWords()
    task = task_with(objective)
    asked = []
    forward = task.model.heads["replaced"].forward
    monkeypatch.setattr(task.model.heads["replaced"], "forward", lambda x: asked.append(len(x)) or forward(x))
    run(objective, data, task)
    assert asked == [4 * 5]  # five words in each of four texts; neither [CLS] nor padding
    assert task.counts(data)[2] == 20


def test_the_generator_learns_from_its_own_loss_alone():
    grads = []
    for weight in (0.0, 50.0):
        task = task_with(ReplacedWords(weight=weight, draw=one_after))
        _, output = run(None, batch(), task)
        output.loss.backward()
        head = task.model.heads["generate"]
        grads.append(
            [p.grad.clone() for p in (head.dense.weight, head.dense.bias, head.norm.weight, head.decoder.bias)]
        )
    for alone, both in zip(*grads, strict=True):
        assert torch.equal(alone, both)
        assert alone.abs().sum() > 0


def test_nothing_of_the_detection_flows_into_the_masked_texts_states():
    task = task_with(ReplacedWords(generator_weight=0.0))
    scene = scene_of(task, batch())
    scene.text.retain_grad()
    states = scene.text  # clean rows, then masked rows
    objective = task.settings.objectives[0]
    pairs = objective.pairs(scene)
    fused = task.model.fuse(scene.text[pairs.row], scene.text_mask[pairs.row], scene.image, pairs.image)
    objective(task.model, scene, fused)["replaced_words"].backward()
    assert states.grad is None or not states.grad.any()


def test_the_masks_place_does_not_leak_into_what_the_detector_reads():
    """Where another choice of masked positions gives the same words, the detector sees exactly the same."""
    read = []
    for masked_at in ((2, 3), (4,), ()):
        data = batch(masked_at)
        objective = ReplacedWords(draw=lambda weights, data=data: data.labels[data.labels != -100])
        task = task_with(objective)
        scene = scene_of(task, data)
        pairs = objective.pairs(scene)
        read.append((scene.text[pairs.row], scene.text_mask[pairs.row]))
    for states, mask in read[1:]:
        torch.testing.assert_close(states, read[0][0])
        assert torch.equal(mask, read[0][1])
    clean = task.model.encode_text(data.token_ids, data.token_mask)
    torch.testing.assert_close(read[0][0][data.token_mask], clean[data.token_mask])


def test_the_judged_text_holds_no_mask_and_differs_at_replaced_words_only():
    data = batch()
    objective = ReplacedWords(draw=one_after)
    task = task_with(objective)
    scene = scene_of(task, data)
    encode, seen = task.model.encode_text, []
    task.model.encode_text = lambda ids, mask: seen.append(ids) or encode(ids, mask)
    objective.pairs(scene)
    _, drawn, replaced = scene.kept[objective]
    assert not (seen[0] == MASK)[data.labels == -100].any()
    assert torch.equal(seen[0] != data.token_ids, replaced)
    assert torch.equal(seen[0][data.labels != -100], drawn)


def test_losses_are_those_of_the_formulas(monkeypatch):
    data = batch()
    objective = ReplacedWords(weight=3.0, generator_weight=0.5, draw=one_after)
    task = task_with(objective)
    scene = scene_of(task, data)
    pairs = objective.pairs(scene)
    fused = task.model.fuse(scene.text[pairs.row], scene.text_mask[pairs.row], scene.image, pairs.image)
    found = objective(task.model, scene, fused)
    logits, _, replaced = scene.kept[objective]
    labels = data.labels[data.labels != -100]
    torch.testing.assert_close(found["generator"], 0.5 * masked_word_loss(logits, labels).mean())
    judged = task.model.heads["replaced"](fused.hidden[data.words])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(judged, replaced[data.words].float())
    torch.testing.assert_close(found["replaced_words"], 3 * expected)


def test_it_stands_beside_all_other_objectives_in_one_fusion_pass(monkeypatch):
    model = small()
    model.heads["mask"] = albef_tiny(
        WORDS, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16
    ).heads["mask"]
    task = Align(objectives=(Contrast(), Match(), MaskedWords(), ReplacedWords()), queue_size=8, ramp_steps=0).build(
        model
    )
    calls = []
    fuse = model.fuse
    monkeypatch.setattr(model, "fuse", lambda *a, **k: calls.append(1) or fuse(*a, **k))
    output = task(batch(), task.counts(batch()))
    output.loss.backward()
    assert len(calls) == 1
    assert {"contrast", "match", "masked_words", "replaced_words", "generator"} <= set(output.metrics)


def test_text_without_any_mask_trains_and_stays_finite():
    _, output = run(ReplacedWords(), batch(masked_at=()))
    assert torch.isfinite(output.loss)
    assert output.metrics["generator"] == 0


def test_what_is_missing_is_named():
    with pytest.raises(UsageError, match="weights and temperature"):
        ReplacedWords(temperature=-1)
    data = batch()
    data.words = None
    with pytest.raises(UsageError, match="Masking"):
        run(ReplacedWords(), data)
    task = Align(objectives=(ReplacedWords(),), queue_size=0).build(
        albef_tiny(WORDS, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    )
    with pytest.raises(UsageError, match="for_replaced_words"):
        task(batch(), task.counts(batch()))


def test_a_regions_text_is_judged_inside_its_box(monkeypatch):
    data = batch()
    data.grounding_text = torch.tensor([1])
    data.grounding_tokens = data.token_mask[1:2].clone()
    data.box, data.box_grounding = torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([0])
    objective = ReplacedWords()
    task = task_with(objective)
    seen = {}
    fuse = task.model.fuse

    def spy(text, mask, image, index, **more):
        seen.update(index=index, look=more["image_mask_IN"], images=len(image))
        return fuse(text, mask, image, index, **more)

    monkeypatch.setattr(task.model, "fuse", spy)
    run(objective, data, task)
    assert seen["index"].tolist() == [0, 4, 2, 3]  # the region comes after the four images
    assert seen["look"][:4].all()
    assert seen["look"][4, 1:].float().mean() == 0.25  # a quarter of the picture
