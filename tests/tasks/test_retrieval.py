"""Retrieval fine-tuning: several texts of a picture, and what the queue knows of its pictures."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from wordregion.models.zoo import albef_tiny, for_retrieval
from wordregion.objectives import Contrast, Match
from wordregion.schema import Batch
from wordregion.tasks.align import Align


def largest(weights_QC):
    return weights_QC.argmax(-1)


BOTH = (Contrast(same_image_positives=True), Match(draw=largest))


def a_task(queue_size=0, distill=0.4, objectives=BOTH):
    torch.manual_seed(0)
    model = for_retrieval(
        albef_tiny(60, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    )
    return Align(objectives=objectives, queue_size=queue_size, distill=distill, ramp_steps=0).build(model).eval()


def two_texts_a_picture():
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 60, (6, 5), generator=draw)
    return Batch(
        image=torch.randn(3, 3, 32, 32, generator=draw),
        image_key=torch.tensor([4, 7, 9]),
        token_ids=ids,
        token_mask=torch.ones_like(ids).bool(),
        text_image=torch.tensor([0, 0, 1, 1, 2, 2]),
    )


def test_several_texts_of_a_picture_count_like_repeated_pictures():
    """The original has a picture once for each of its captions; here they share one encoding."""
    shared, task = two_texts_a_picture(), a_task()
    repeated = replace(
        shared,
        image=shared.image[shared.text_image],
        image_key=shared.image_key[shared.text_image],
        text_image=torch.arange(6),
    )
    ours, theirs = (task(batch, task.counts(batch)) for batch in (shared, repeated))
    assert ours.metrics.keys() == theirs.metrics.keys()
    for name, value in ours.metrics.items():
        torch.testing.assert_close(value, theirs.metrics[name])


def test_a_text_of_the_same_picture_is_never_a_negative():
    chosen = []

    def remember(weights_QC):
        chosen.append(weights_QC)
        return largest(weights_QC)

    batch, task = two_texts_a_picture(), a_task(objectives=(Match(draw=remember),))
    task(batch, task.counts(batch))
    same = batch.text_image[:, None] == batch.text_image[None, :]
    assert len(chosen) == 2
    for weights in chosen:
        assert (weights[same] == 0).all()
        assert (weights[~same] > 0).all()


@pytest.mark.parametrize("known", [True, False])
def test_texts_of_the_picture_in_the_queue_are_positives(known):
    batch, task = (
        two_texts_a_picture(),
        a_task(queue_size=8, distill=0.0, objectives=(Contrast(same_image_positives=True),)),
    )
    task.queue.key_id[3] = 7 if known else -1
    output = task(batch, task.counts(batch))
    with torch.no_grad():
        image = task.model.project_image(task.model.encode_image(batch.image))[batch.text_image]
        text = task.model.project_text(task.model.encode_text(batch.token_ids, batch.token_mask), batch.token_mask)
        keys = torch.cat([batch.image_key[batch.text_image], task.queue.key_id])
        same = (batch.image_key[batch.text_image][:, None] == keys[None, :]).float()
        assert same[2:4].sum() == (6 if known else 4)
        targets = same / same.sum(1, keepdim=True)
        loss = sum(
            -(F.log_softmax(query @ torch.cat([key, queue]).T / task.model.temperature, 1) * targets).sum(1).mean()
            for query, key, queue in ((image, text, task.queue.text), (text, image, task.queue.image))
        )
    torch.testing.assert_close(output.metrics["contrast"], loss / 2)


def test_without_distillation_the_teachers_opinion_counts_nothing():
    batch, one, other = two_texts_a_picture(), a_task(distill=0.0), a_task(distill=0.4)
    with torch.no_grad():
        for task in (one, other):
            task.teacher.image_proj.weight.mul_(-1)
    first, second = (task(batch, task.counts(batch)).metrics for task in (one, other))
    assert first["contrast"] != second["contrast"]
    torch.testing.assert_close(first["match"], second["match"])
