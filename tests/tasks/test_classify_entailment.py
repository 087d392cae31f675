"""Visual entailment: the loss by hand, the teacher, and learning on a handful of scenes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wordregion.data.scenes import SceneEntailment
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.models.two_images import pair_logits
from wordregion.models.zoo import albef_tiny, for_entailment
from wordregion.tasks.classify import Classify

SIZES = {"width": 32, "vision_layers": 1, "text_layers": 1, "fusion_layers": 1, "embed": 16}


def a_batch(size=6):
    tokenizer = Tokenizer("scenes")
    data, transform = SceneEntailment("train", size, image_size=32), EvalTransform(32)
    return SentenceCollator(tokenizer, needs=("label",))(
        [(i, transform(data[i]), np.random.default_rng(i)) for i in range(size)]
    )


def a_model(seed=0):
    torch.manual_seed(seed)
    return for_entailment(albef_tiny(Tokenizer("scenes").vocab_size, image_size=32, **SIZES))


def test_the_loss_mixes_labels_and_the_teachers_opinion():
    batch, task = a_batch(), Classify("entail", distill=0.4, ramp_steps=0).build(a_model()).eval()
    task.teacher.load_state_dict(a_model(seed=1).state_dict())
    output = task(batch, task.counts(batch))
    ours = pair_logits(task.model, batch, task.model.encode_image(batch.image), "entail")
    theirs = pair_logits(task.teacher, batch, task.teacher.encode_image(batch.image), "entail")
    hard = F.cross_entropy(ours, batch.target["label"])
    soft = -(F.log_softmax(ours, 1) * theirs.softmax(1)).sum(1).mean()
    torch.testing.assert_close(output.loss, 0.6 * hard + 0.4 * soft)
    accuracy = (ours.argmax(1) == batch.target["label"]).float().mean()
    torch.testing.assert_close(output.metrics["entail_accuracy"], accuracy)


def test_the_teacher_follows_after_the_step_and_alpha_rises():
    task = Classify("entail", momentum=0.9, distill=0.4, ramp_steps=4).build(a_model())
    before = copy.deepcopy(task.teacher.state_dict())
    assert task.distill_weight() == 0
    with torch.no_grad():
        task.model.heads["entail"].out.weight.add_(1)
    task.after_step()
    moved = task.teacher.heads["entail"].out.weight - before["heads.entail.out.weight"]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1))
    assert task.distill_weight() == pytest.approx(0.1)
    assert not task.train().teacher.training


def test_micro_batches_add_up_to_the_batch():
    batch, collate = a_batch(), SentenceCollator(Tokenizer("scenes"), needs=("label",))
    data, transform = SceneEntailment("train", 6, image_size=32), EvalTransform(32)
    task = Classify("entail", distill=0.0).build(a_model()).eval()
    assert task.teacher is None
    whole = task(batch, task.counts(batch)).loss
    halves = [
        collate([(i, transform(data[i]), np.random.default_rng(i)) for i in rows]) for rows in ((0, 1), (2, 3, 4, 5))
    ]
    total = sum(task.counts(half) for half in halves)
    torch.testing.assert_close(sum(task(half, total).loss for half in halves), whole)


def test_it_learns_three_pictures_of_one_sentence():
    batch, task = a_batch(3), Classify("entail", distill=0.0).build(a_model()).eval()
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    for _ in range(110):
        output = task(batch, task.counts(batch))
        output.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert output.metrics["entail_accuracy"] == 1


def test_wrong_settings_and_models_are_refused():
    with pytest.raises(UsageError, match="distill=2"):
        Classify("entail", distill=2.0)
    with pytest.raises(UsageError, match="ramp_steps=-1"):
        Classify("entail", ramp_steps=-1)
    plain = albef_tiny(40, image_size=32, **SIZES)
    with pytest.raises(UsageError, match="for_entailment"):
        Classify("entail").build(plain)
