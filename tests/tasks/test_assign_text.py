import pytest
import torch

from wordregion.models.zoo import albef_tiny, for_two_images
from wordregion.schema import Batch
from wordregion.tasks.assign_text import AssignText, assign, draw_coins, draw_two, likeness


def model():
    torch.manual_seed(0)
    one = albef_tiny(40, image_size=32, width=64, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    return for_two_images(one, "assign")


def batch(images=4, per_image=1, keys=None):
    generator = torch.Generator().manual_seed(1)
    texts = images * per_image
    ids = torch.randint(5, 40, (texts, 6), generator=generator)
    return Batch(
        image=torch.randn(images, 3, 32, 32, generator=generator),
        image_key=torch.arange(images) if keys is None else torch.tensor(keys),
        token_ids=ids,
        token_mask=torch.ones(texts, 6, dtype=torch.bool),
        text_image=torch.arange(images).repeat_interleave(per_image),
    )


def test_the_originals_draws_by_hand():
    """Its fixed sequence: texts 0 and 3 shown first, text 1 second, text 2 with two others."""
    coins = torch.tensor([[0.9, 0.9], [0.9, 0.1], [0.1, 0.0], [0.9, 0.9]])
    drawn = torch.tensor([[2, 3], [2, 0], [0, 3], [0, 2]])
    chosen, label = assign(torch.arange(4), torch.full((4,), 3), coins, drawn)
    assert chosen.tolist() == [[0, 2], [2, 1], [0, 3], [3, 0]]
    assert label.tolist() == [0, 1, 2, 0]


def test_the_bounds_of_the_coins_belong_to_neither_and_second():
    coins = torch.tensor([[1 / 3, 0.9], [0.34, 0.5], [0.34, 0.51]])
    _, label = assign(torch.arange(3), torch.full((3,), 2), coins, torch.tensor([[1, 2], [0, 2], [0, 1]]))
    assert label.tolist() == [2, 1, 0]


def test_a_text_with_a_single_other_image_is_always_shown_with_its_own():
    coins = torch.tensor([[0.1, 0.9], [0.1, 0.1]])
    chosen, label = assign(torch.arange(2), torch.ones(2, dtype=torch.long), coins, torch.tensor([[1, 0], [0, 1]]))
    assert chosen.tolist() == [[0, 1], [0, 1]]
    assert label.tolist() == [0, 1]


def test_two_different_images_are_drawn_in_proportion_to_their_weights():
    torch.manual_seed(0)
    weights = torch.tensor([0.0, 0.6, 0.3, 0.1]).expand(20000, 4)
    drawn = draw_two(weights)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert not (drawn == 0).any()
    first = torch.bincount(drawn[:, 0], minlength=4) / 20000
    torch.testing.assert_close(first, torch.tensor([0.0, 0.6, 0.3, 0.1]), atol=0.015, rtol=0)
    after_one = drawn[drawn[:, 0] == 1, 1]
    assert (after_one == 2).float().mean() == pytest.approx(0.75, abs=0.02)


def test_the_only_image_is_drawn_twice():
    assert draw_two(torch.ones(2, 1)).tolist() == [[0, 0], [0, 0]]


def test_thirds_and_halves():
    torch.manual_seed(0)
    coins = draw_coins(30000, torch.device("cpu"))
    _, label = assign(
        torch.zeros(30000).long(), torch.full((30000,), 5), coins, torch.tensor([[1, 2]]).expand(30000, 2)
    )
    torch.testing.assert_close(torch.bincount(label) / 30000, torch.full((3,), 1 / 3), atol=0.015, rtol=0)


def test_likeness_is_of_the_own_image_and_never_of_the_same_picture():
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [1.0, 0.1]]), dim=1)
    weights, others = likeness(features, batch(4, keys=[7, 8, 9, 7]))
    assert others.tolist() == [2, 3, 3, 2]
    assert weights[0, 0] == weights[0, 3] == weights[3, 0] == 0
    whole = (features @ features.T / 0.07).softmax(1)
    torch.testing.assert_close(weights[0, 1:3], whole[0, 1:3])


@pytest.mark.parametrize("per_image", [1, 2])
def test_it_learns_fixed_draws(per_image):
    fixed = torch.rand(4 * per_image, 2, generator=torch.Generator().manual_seed(2))
    settings = AssignText(coins=lambda texts, device: fixed, draw=lambda weights: weights.topk(2).indices)
    task, data = settings.build(model()).eval(), batch(4, per_image)
    optimiser = torch.optim.Adam([p for n, p in task.model.named_parameters() if "_proj" not in n], lr=1e-3)
    losses = []
    for _ in range(40):
        output = task(data, task.counts(data))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        task.after_step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert output.metrics["assign_accuracy"] == 1


def test_draws_come_from_the_global_generator():
    task, data = AssignText().build(model()).eval(), batch(6)

    def loss(seed):
        torch.manual_seed(seed)
        return task(data, task.counts(data)).loss.item()

    assert loss(1) == loss(1)
    assert len({loss(seed) for seed in range(4)}) > 1


def test_a_batch_of_one_learns_nothing_and_says_so():
    task, data = AssignText().build(model()).eval(), batch(1)
    with pytest.warns(UserWarning, match="single image"):
        output = task(data, task.counts(data))
    assert output.loss == 0
    output.loss.backward()
