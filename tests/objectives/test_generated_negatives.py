"""FG-ITM: generated negatives beside the mined ones, and ITM exactly without them."""

import copy

import pytest
import torch

from wordregion.errors import UsageError
from wordregion.models.zoo import albef_tiny
from wordregion.objectives import Contrast, Match
from wordregion.schema import Batch
from wordregion.tasks.align import Align


def neighbour(weights):
    return (torch.arange(len(weights)) + 1) % len(weights)


def task_with(**match):
    torch.manual_seed(0)
    model = albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    task = Align(objectives=(Match(draw=neighbour, **match),), queue_size=0, distill=0.0).build(model)
    return task.eval()


def batch(texts=4, negatives=(0, 0, 0, 2)):
    """Texts of one image each; `negatives` names the true text of each false one."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (texts, 8), generator=generator)
    image = torch.randn(texts, 3, 32, 32, generator=generator)
    false = torch.randint(5, 40, (len(negatives), 8), generator=generator)
    return Batch(
        image=image,
        image_key=torch.arange(texts),
        token_ids=ids,
        token_mask=torch.ones(texts, 8, dtype=torch.bool),
        text_image=torch.arange(texts),
        negative_ids=false,
        negative_mask=torch.ones(len(negatives), 8, dtype=torch.bool),
        negative_text=torch.tensor(negatives, dtype=torch.long),
    )


def step(task, data):
    output = task(data, task.counts(data))
    output.loss.backward()
    return output, [None if p.grad is None else p.grad.clone() for p in task.model.parameters()]


@pytest.mark.parametrize("generated", [0, 3])
def test_without_generated_texts_it_is_itm_bit_by_bit(generated):
    """Zero asked for, though the batch has some; and three asked for, though the batch has none."""
    plain = batch()
    plain.negative_ids = plain.negative_mask = plain.negative_text = None
    itm, itm_grads = step(task_with(), plain)
    found, grads = step(task_with(generated=generated), batch() if generated == 0 else batch(negatives=()))
    assert torch.equal(found.loss, itm.loss)
    assert torch.equal(found.metrics["match_accuracy"], itm.metrics["match_accuracy"])
    for ours, theirs in zip(grads, itm_grads, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


@pytest.mark.parametrize("region_weight", [None, 0.25])
def test_all_negatives_of_a_text_weigh_as_much_as_itms_two(monkeypatch, region_weight):
    task, data = task_with(generated=3, region_weight=region_weight), batch()
    if region_weight is not None:
        describe_regions(data, [0, 2])
    seen = {}
    head = task.model.heads["match"]
    forward = head.forward
    monkeypatch.setattr(head, "forward", lambda x: seen.setdefault("logits", forward(x)))
    output = task(data, task.counts(data))
    logits = seen["logits"].float()
    assert len(logits) == 3 * 4 + 4
    losses = torch.nn.functional.cross_entropy(
        logits, torch.cat([torch.ones(4), torch.zeros(12)]).long(), reduction="none"
    ).tolist()
    # Text 0 has 2 + 3 negatives, text 2 has 2 + 1, the others 2.
    share = [2 / 5, 1, 2 / 3, 1]
    each = [1, 1, 1, 1] if region_weight is None else [region_weight, 1, region_weight, 1]
    expected = sum(each[t] * (losses[t] + (losses[4 + t] + losses[8 + t]) * share[t]) for t in range(4))
    expected += sum(each[t] * losses[12 + f] * share[t] for f, t in enumerate((0, 0, 0, 2)))
    assert float(output.loss.detach()) == pytest.approx(expected / (3 * sum(each)), rel=1e-5)


def describe_regions(data, texts):
    """Gives these texts a box each."""
    data.grounding_text = torch.tensor(texts)
    data.box_grounding = torch.arange(len(texts))
    data.grounding_tokens = torch.ones(len(texts), 8, dtype=torch.bool)
    data.box = torch.tensor([[0.0, 0.0, 0.5, 1.0]]).repeat(len(texts), 1)


def test_no_more_than_asked_for_are_used():
    one, _ = step(task_with(generated=1), batch())
    same, _ = step(task_with(generated=1), batch_without_the_rest())
    torch.testing.assert_close(one.loss, same.loss)
    assert one.metrics["generated_accuracy"].isfinite()


def batch_without_the_rest():
    data = batch()
    keep = torch.tensor([0, 3])
    data.negative_ids, data.negative_mask = data.negative_ids[keep], data.negative_mask[keep]
    data.negative_text = data.negative_text[keep]
    return data


def test_generated_texts_are_paired_with_the_image_of_their_true_text():
    task, data = task_with(generated=3), batch()
    scene = task._scene(data, task.counts(data))
    pairs = task.settings.objectives[0].pairs(scene)
    assert pairs.image[12:].tolist() == [0, 0, 0, 2]
    states = task.model.encode_text(data.negative_ids, data.negative_mask)
    torch.testing.assert_close(scene.text[pairs.row[12:]], states)


def test_a_single_image_still_learns_from_generated_texts():
    data = batch(texts=1, negatives=(0, 0))
    with pytest.warns(UserWarning, match="no negatives"):
        output, _ = step(task_with(generated=2), data)
    alone = copy.copy(data)
    with pytest.warns(UserWarning, match="no negatives"):
        without, _ = step(task_with(), alone)
    assert output.loss > without.loss


def test_a_batch_that_draws_none_is_refused():
    data = batch()
    data.negative_ids = data.negative_mask = data.negative_text = None
    with pytest.raises(UsageError, match="negatives=N"):
        step(task_with(generated=1), data)
    with pytest.raises(UsageError, match="below 0"):
        Match(generated=-1)


def test_negatives_are_not_read_while_the_contrast_is_alone():
    torch.manual_seed(0)
    model = albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    task = Align(objectives=(Contrast(), Match(generated=2)), first_alone=1, queue_size=0).build(model)
    assert len(task._scene(batch(), task.counts(batch())).text) == 4
