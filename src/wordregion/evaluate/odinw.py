"""Object Detection in the Wild: 35 small data sets, and the means over all and over the 13 of GLIP's paper."""

from collections.abc import Mapping, Sequence

from wordregion.errors import UsageError

ODINW13 = (
    "AerialMaritimeDrone_large", "Aquarium", "CottontailRabbits", "EgoHands_generic", "NorthAmericaMushrooms",
    "Packages", "PascalVOC", "pistols", "pothole", "Raccoon", "ShellfishOpenImages", "thermalDogsAndPeople",
    "VehiclesOpenImages",
)  # fmt: skip
ODINW35 = (
    *ODINW13, "AerialMaritimeDrone_tiled", "AmericanSignLanguageLetters", "BCCD", "boggleBoards",
    "brackishUnderwater", "ChessPieces", "dice", "DroneControl", "EgoHands_specific", "HardHatWorkers", "MaskWearing",
    "MountainDewCommercial", "openPoetryVision", "OxfordPets_by-breed", "OxfordPets_by-species", "PKLot", "plantdoc",
    "selfdrivingCar", "ThermalCheetah", "UnoCards", "websiteScreenshots", "WildfireSmoke",
)  # fmt: skip
SHOTS = (1, 3, 5, 10)
COPIES = {1: 8, 3: 4, 5: 2, 10: 1}
"""How often GLIP's few-shot training repeats its images in an epoch."""


def odinw_average(ap: Mapping[str, Sequence[float]], protocol: str) -> dict[str, float]:
    """The mean AP over the data sets, each first averaged over its runs; with the spread of the mean over the runs.

    Args:
        ap: AP of each run (seed) by data set: all 13, or all 35. As many runs each.
        protocol: what was done: "raw", "finetuned_on_1shot" ..., "finetuned_on_full".

    Returns:
        ``PROTOCOL/odinw13/AP``, with 35 sets ``PROTOCOL/odinw35/AP`` too; ``.../AP_std`` over the runs where there are
        several (of the mean of each run, with n - 1).

    Raises:
        UsageError: if a set is missing or unknown, or the numbers of runs differ.
    """
    if unknown := sorted(set(ap) - set(ODINW35)):
        raise UsageError(f"ODinW: {unknown[0]!r} is none of its data sets. They are {', '.join(ODINW35)}.")
    runs = {len(values) for values in ap.values()}
    if len(runs) != 1 or 0 in runs:
        raise UsageError(f"ODinW: the data sets have {sorted(runs)} runs. Give as many for each, at least one.")
    groups = {"odinw13": ODINW13} | ({"odinw35": ODINW35} if set(ap) - set(ODINW13) else {})
    metrics: dict[str, float] = {}
    for group, names in groups.items():
        if missing := [name for name in names if name not in ap]:
            raise UsageError(f"ODinW: no result of {', '.join(missing)}. A mean over fewer sets can't be compared.")
        means = [sum(ap[name][run] for name in names) / len(names) for run in range(runs.copy().pop())]
        mean = sum(means) / len(means)
        metrics[f"{protocol}/{group}/AP"] = mean
        if len(means) > 1:
            variance = sum((value - mean) ** 2 for value in means) / (len(means) - 1)
            metrics[f"{protocol}/{group}/AP_std"] = variance**0.5
    return metrics
