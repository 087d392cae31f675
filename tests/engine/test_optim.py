"""Parameter groups, learning rates, clipping."""

import math

import pytest
import torch
from torch import nn

from wordregion.engine import optim
from wordregion.errors import UsageError
from wordregion.recipes.recipe import AdamW, Run


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.temperature = nn.Parameter(torch.tensor([0.07]))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 3))


def grouped(settings: AdamW, model: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optim.parameter_groups(model, settings)
    return {names[id(p)]: (g["weight_decay"], g["lr_scale"]) for g in groups for p in g["params"]}


def test_weight_decay_spares_vectors_only() -> None:
    """ALBEF's grouping: the temperature and the class token are decayed."""
    assert grouped(AdamW(weight_decay=0.1, lr_scale=(("vision", 0.5),)), Toy()) == {
        "vision.weight": (0.1, 0.5),
        "vision.bias": (0.0, 0.5),
        "norm.weight": (0.0, 1.0),
        "norm.bias": (0.0, 1.0),
        "temperature": (0.1, 1.0),
        "cls_token": (0.1, 1.0),
    }
    assert grouped(AdamW(no_decay=("cls_token",)), Toy())["cls_token"] == (0.0, 1.0)


def test_glip_decays_norms_and_moves_biases_twice_as_fast() -> None:
    assert grouped(AdamW(weight_decay=0.1, no_decay=("bias",), decay_vectors=True, bias_scale=2.0), Toy()) == {
        "vision.weight": (0.1, 1.0),
        "vision.bias": (0.0, 2.0),
        "norm.weight": (0.1, 1.0),
        "norm.bias": (0.0, 2.0),
        "temperature": (0.1, 1.0),
        "cls_token": (0.1, 1.0),
    }


def test_frozen_parameters_are_left_out() -> None:
    model = Toy()
    optim.freeze(model, AdamW(freeze=("vision",)))
    assert not any(name.startswith("vision") for name in grouped(AdamW(), model))


def test_a_prefix_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="visoin"):
        optim.freeze(Toy(), AdamW(freeze=("visoin",)))
    with pytest.raises(UsageError, match="visoin"):
        optim.parameter_groups(Toy(), AdamW(lr_scale=(("visoin", 0.1),)))


def test_schedules() -> None:
    cosine = AdamW(warmup=4, start=0.1, final=0.1)
    factors = [cosine.factor(step, 104) for step in range(105)]
    assert factors[:4] == pytest.approx([0.325, 0.55, 0.775, 1.0])
    assert factors[4] == 1.0
    assert factors[54] == pytest.approx(0.55)
    assert factors[104] == pytest.approx(0.1)
    assert factors[29] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    linear = AdamW(schedule="linear")
    assert [linear.factor(step, 10) for step in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])
    step = AdamW(schedule="step", milestones=(0.5, 0.9), drop=0.1)
    assert [step.factor(at, 10) for at in (0, 4, 5, 8, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    warm = AdamW(schedule="step", milestones=(0.5,), drop=0.1, warmup=4)
    assert [warm.factor(at, 10) for at in (0, 3, 4, 5)] == pytest.approx([0.25, 1, 1, 0.1])  # of all 10 steps
    assert AdamW(schedule="step", milestones=()).factor(9, 10) == 1


def test_stairs() -> None:
    stairs = AdamW(warmup=4, start=0.5, final=0.1, stairs=(2, 10))
    assert [stairs.factor(step, 20) for step in range(6)] == pytest.approx([0.5, 0.5, 0.5, 0.75, 0.75, 1.0])
    assert {stairs.factor(step, 20) for step in range(5, 10)} == {1.0}
    assert [stairs.factor(step, 20) for step in (10, 19, 20, 25)] == pytest.approx([0.55, 0.55, 0.1, 0.1])
    short = AdamW(warmup=6, start=0.5, stairs=(2, 3))  # the warm-up ends with the first epoch
    assert [short.factor(step, 12) for step in (2, 3)] == pytest.approx([0.5, 0.5 * (1 + math.cos(math.pi / 4))])
    assert AdamW(stairs=(1, 5), schedule="linear").factor(0, 10) == 1
    with pytest.raises(UsageError, match="above 0"):
        AdamW(stairs=(0, 5))
    with pytest.raises(UsageError, match="milestones"):
        AdamW(schedule="step", stairs=(1, 5))


def test_clipping_equals_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = Toy(), Toy()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    norm = optim.clip_gradients(ours, 0.5)
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0}, {"batch": 0}, {"accumulate": 0}, {"workers": -1},
        {"clip": 0.0}, {"max_bad_share": 2.0}, {"keep": 0}, {"log_every": 0}, {"save_every": 0},
    ],
)  # fmt: skip
def test_bad_run_settings(bad: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Run(**({"steps": 1, "batch": 1} | bad))


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"lr": math.nan}, {"betas": (0.9, 1.0)}, {"warmup": -1}, {"final": -0.1}])
def test_bad_optimiser_settings(bad: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        AdamW(**bad)
