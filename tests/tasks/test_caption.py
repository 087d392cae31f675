import pytest
import torch

from wordregion.errors import UsageError
from wordregion.models.caption import caption_states
from wordregion.models.zoo import albef_tiny, for_captioning, for_retrieval
from wordregion.schema import Batch
from wordregion.tasks.caption import Caption, SelfCritical

END = 3


def small():
    torch.manual_seed(0)
    return for_captioning(
        albef_tiny(12, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    )


def batch(rows=slice(0, 3)):
    """Three captions of two, three and one words behind a prompt of two tokens."""
    ids = torch.tensor([[2, 5, 7, 8, 3, 0], [2, 5, 7, 9, 10, 3], [2, 5, 11, 3, 0, 0]])[rows]
    real = ids != 0
    return Batch(
        image=torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))[rows],
        image_key=torch.arange(3)[rows],
        token_ids=ids,
        token_mask=real,
        text_image=torch.arange(len(ids)),
        labels=torch.where(real & (torch.arange(6) >= 2), ids, -100),
        target={"references": [("a b",), ("a b c", "d"), ("e",)][rows]},
    )


def test_the_loss_is_the_mean_over_every_word_and_end_behind_the_prompt():
    task, data = Caption(smoothing=0.0).build(small()).eval(), batch()
    output = task(data, task.counts(data))
    total, count = 0.0, 0
    with torch.no_grad():
        for row in range(3):
            ids = data.token_ids[row][data.token_mask[row]][None]
            hidden = caption_states(task.model, ids, task.model.encode_image(data.image[row : row + 1]))
            log = task.model.heads["mask"](hidden)[0].log_softmax(-1)
            for place in range(2, ids.shape[1]):
                total -= float(log[place - 1, ids[0, place]])
                count += 1
    assert task.counts(data).tolist() == [count]
    assert count == 3 + 4 + 2
    assert output.loss.item() == pytest.approx(total / count, rel=1e-4)


def test_micro_batches_add_up_to_the_gradient_of_the_whole():
    task = Caption().build(small()).eval()
    totals = task.counts(batch())
    task(batch(), totals).loss.backward()
    expected = {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
    task.zero_grad()
    for rows in (slice(0, 1), slice(1, 3)):
        task(batch(rows), totals).loss.backward()
    assert len(expected) > 30
    for name, parameter in task.model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_captions_are_learned():
    task, data = Caption(smoothing=0.0).build(small()).eval(), batch()
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    for _ in range(30):
        output = task(data, task.counts(data))
        output.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert output.metrics["token_accuracy"].item() == pytest.approx(1)


def eights(ids, references):
    """How often a caption says 8, per word."""
    return [row.count(8) / max(len(row), 1) for row in ids]


def test_the_reward_rises():
    torch.manual_seed(1)
    task, data = SelfCritical(eights, samples=8, max_tokens=8).build(small()).train(), batch()
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=5e-3)
    seen = []
    for _ in range(25):
        output = task(data, task.counts(data))
        output.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seen.append(float(output.metrics["reward"]))
    assert sum(seen[-5:]) / 5 > 0.6 > 0.4 > sum(seen[:5]) / 5
    assert task.training
    assert task.model.training


def test_the_gradient_is_that_of_the_captions_probability_times_their_advantage():
    asked = []

    def reward(ids, references):
        asked.append([list(row) for row in ids])
        return [float(len(row)) for row in ids]

    task, data = SelfCritical(reward, samples=2, max_tokens=6).build(small()).eval(), batch()
    torch.manual_seed(3)
    output = task(data, task.counts(data))
    greedy, drawn = asked
    image, total, head = task.model.encode_image(data.image), 0.0, task.model.heads["mask"]
    for row, words in enumerate(drawn):
        whole = [2, 5, *words, *([END] if len(words) < 4 else [])]
        hidden = caption_states(task.model, torch.tensor([whole]), image[row // 2][None])
        log = head(hidden)[0].log_softmax(-1)
        mean = sum(log[i - 1, whole[i]] for i in range(2, len(whole))) / (len(whole) - 2)
        total = total - (len(words) - len(greedy[row // 2])) * mean / 6
    assert output.loss.item() == pytest.approx(total.item(), rel=1e-4, abs=1e-6)
    ours = torch.autograd.grad(output.loss, head.dense.weight, retain_graph=True)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(total, head.dense.weight)[0], rtol=1e-3, atol=1e-6)


def test_where_no_sample_is_better_nothing_moves():
    task, data = SelfCritical(lambda ids, references: [1.0] * len(ids)).build(small()).eval(), batch()
    task(data, task.counts(data)).loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in task.model.parameters())


def test_rewards_get_the_references_of_their_image():
    def reward(ids, references):
        assert len(ids) == len(references)
        assert list(references[:: len(ids) // 3]) == batch().target["references"]
        return [0.0] * len(ids)

    task, data = SelfCritical(reward, samples=3).build(small()).eval(), batch()
    task(data, task.counts(data))


@pytest.mark.parametrize("settings", [{"smoothing": 1.0}, {"smoothing": -0.1}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(UsageError):
        Caption(**settings)
    with pytest.raises(UsageError):
        SelfCritical(eights, samples=0)


def test_a_batch_without_labels_and_a_model_without_word_head_are_refused():
    with pytest.raises(UsageError, match="masked-word head"):
        Caption().build(for_retrieval(albef_tiny(12, 32, width=32, vision_layers=1, text_layers=1, fusion_layers=1)))
    data = batch()
    data.labels = None
    with pytest.raises(UsageError, match="CaptionCollator"):
        Caption().build(small()).counts(data)
