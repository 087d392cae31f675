"""The mean over ODinW's data sets, and its few-shot draws."""

import pytest

from wordregion.data.few_shot import Subset, few_shot
from wordregion.errors import UsageError
from wordregion.evaluate.odinw import COPIES, ODINW13, ODINW35, SHOTS, odinw_average
from wordregion.schema import Sample


def test_there_are_13_and_35_sets() -> None:
    assert (len(set(ODINW13)), len(set(ODINW35))) == (13, 35)
    assert set(COPIES) == set(SHOTS)


def test_means_over_sets_and_spread_over_runs() -> None:
    ap = {name: [10.0 + i, 20.0 + i] for i, name in enumerate(ODINW13)}
    means = odinw_average(ap, "finetuned_on_3shot")
    assert means == pytest.approx({"finetuned_on_3shot/odinw13/AP": 21.0, "finetuned_on_3shot/odinw13/AP_std": 50**0.5})
    both = odinw_average({name: [float(name in ODINW13)] for name in ODINW35}, "raw")
    assert both == pytest.approx({"raw/odinw13/AP": 1.0, "raw/odinw35/AP": 13 / 35})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"Aquarium": None}, "no result of Aquarium"), ({"Aquarium": [1.0, 2.0]}, "runs"), ({"Cars": [1.0]}, "'Cars'")],
)
def test_a_mean_that_could_not_be_compared_is_refused(change: dict, message: str) -> None:
    ap = {name: [1.0] for name in ODINW13} | change
    with pytest.raises(UsageError, match=message):
        odinw_average({name: values for name, values in ap.items() if values is not None}, "raw")


def test_every_class_gets_its_shots_and_no_image_is_needless() -> None:
    classes = [{i % 4} | ({9} if i == 17 else set()) for i in range(40)] + [set()] * 5
    draws = {tuple(few_shot(classes, 3, seed)) for seed in range(5)}
    assert len(draws) == 5
    assert tuple(few_shot(classes, 3, 0)) in draws
    for kept in draws:
        shown = [number for index in kept for number in classes[index]]
        assert all(shown.count(number) >= 3 for number in range(4))
        assert 17 in kept
        assert len(kept) in (12, 13)
        assert all(classes[index] for index in kept)


class Letters:
    name = "letters"

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        return Sample("abcd"[index], (), ())

    def where(self, index: int) -> str:
        return f"letter {index}"


def test_a_subset_repeats_its_records() -> None:
    part = Subset(Letters(), [3, 1], copies=2)
    assert [part[i].id for i in range(len(part))] == ["d", "b", "d", "b"]
    assert part.where(2) == "letter 3"
    with pytest.raises(UsageError, match="no record"):
        Subset(Letters(), [])
