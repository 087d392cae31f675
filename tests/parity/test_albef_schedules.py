from pathlib import Path

import pytest

from tests.parity.albef_schedules import RECIPES, rate, verdicts
from tests.parity.golden import Golden
from wordregion.recipes.recipe import AdamW

FOLDER = Path(__file__).parent / "data" / "albef_schedules"


def test_the_published_recipes_have_the_originals_rates():
    golden = Golden(FOLDER, {}, {}, {})
    found = {verdict.name: verdict for verdict in verdicts("albef", golden)}
    assert len(found) == 2 * len(RECIPES) == 16
    assert not [verdict for verdict in found.values() if not verdict.good]


def test_another_rate_is_seen():
    recipe = RECIPES["VQA"]()
    assert rate(recipe, 4) == pytest.approx(2e-5)
    smooth = AdamW(lr=2e-5, warmup=400, start=0.5, final=0.05)
    epoch = recipe.optim.stairs[1]
    assert abs(smooth.lr * smooth.factor(epoch, recipe.run.steps) / rate(recipe, 5) - 1) > 1e-3
