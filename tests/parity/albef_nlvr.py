"""Every array of the groups ``nlvr/`` and ``nlvr_pretrain/`` of ALBEF's reference numbers, computed with this library.

A run's setting is read from its name: ``nodistill``, ``alpha0``, ``alpha04`` and so on; in `nlvr_pretrain` the original
has no settings, so a name says only what it holds.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from tests.parity.albef_pretrain import alpha_of
from tests.parity.golden import Golden, images
from tests.parity.released import gradient_tables, released_model
from wordregion.models.official import to_official
from wordregion.models.two_images import pair_logits
from wordregion.schema import Batch
from wordregion.tasks.assign_text import AssignText, AssignTextTask, assign
from wordregion.tasks.classify import Classify, ClassifyTask
from wordregion.tasks.teacher import update_teacher


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in both groups that `names` asks for and this module knows."""
    if tuning := [name for name in names if not name.startswith("nlvr_pretrain")]:
        yield from _logits(golden, tuning)
        for run in dict.fromkeys(run for name in tuning if (run := _run_of(name))):
            yield from _tuning(golden, run, [name for name in tuning if _run_of(name) == run])
    if pretraining := [name for name in names if name.startswith("nlvr_pretrain")]:
        ids = golden.inputs["captions_ids"]
        pixels = images((4, 3, 256, 256))[: len(ids)]
        yield from assign_text_arrays(golden, pretraining, ids, pixels, "albef/nlvr_pretrain")


def _run_of(name: str) -> str | None:
    """``nlvr/alpha04/loss`` and ``nlvr/alpha04__grad_l2`` -> ``nlvr/alpha04``."""
    found = re.match(r"nlvr/\w*?(nodistill|alpha\d+)(?=/|__|$)", name)
    return found[0] if found else None


def _batch(ids: list[list[int]], pixels: Tensor, text_image: list[int], label: list[int] | None = None) -> Batch:
    length = max(map(len, ids))
    padded = torch.tensor([row + [0] * (length - len(row)) for row in ids])
    return Batch(
        image=pixels,
        image_key=torch.arange(len(pixels)),
        token_ids=padded,
        token_mask=padded != 0,
        text_image=torch.tensor(text_image),
        target={} if label is None else {"label": torch.tensor(label)},
    )


def _tuning_batch(golden: Golden) -> Batch:
    ids = golden.inputs["nlvr_text_ids"]
    count = len(ids)
    order = torch.arange(2 * count).view(2, count).T.flatten()  # theirs: all first images, then all second ones
    pixels = images((4, 3, 384, 384))[order]
    return _batch(ids, pixels, list(range(0, 2 * count, 2)), golden.inputs["nlvr_targets"])


@torch.no_grad()
def _logits(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    if asked := [name for name in names if _run_of(name) is None and name.endswith("logits")]:
        model, batch = released_model(golden, "nlvr", "albef/nlvr"), _tuning_batch(golden)
        logits = pair_logits(model, batch, model.encode_image(batch.image))
        yield from ((name, logits) for name in asked)


def _tuning(golden: Golden, run: str, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    distill = 0.0 if run.endswith("nodistill") else alpha_of(f"alpha{run.rpartition('alpha')[2]}")
    task = ClassifyTask(
        released_model(golden, "nlvr", "albef/nlvr"), Classify("nlvr", distill=distill, ramp_steps=0)
    ).eval()
    if task.teacher is not None:
        task.teacher.load_state_dict(released_model(golden, "nlvr", "albef/nlvr", momentum=True).state_dict())
        update_teacher(task.teacher, task.model, task.settings.momentum)  # the original's forward begins with it
    batch = _tuning_batch(golden)
    output = task(batch, task.counts(batch))
    output.loss.backward()
    for name in names:
        if re.fullmatch(rf"{run}/loss\w*", name):
            yield name, output.loss
        elif name == f"{run}/logits":
            with torch.no_grad():
                yield name, pair_logits(task.model, batch, task.model.encode_image(batch.image))
    if task.teacher is not None:
        for name, value in to_official(task.teacher.state_dict(), "albef/nlvr", momentum=True).items():
            yield f"{run}/after_update/{name}", value
    for prefix in _tables(names):
        yield from gradient_tables(golden, prefix, task.model, "albef/nlvr")


def assign_text_arrays(
    golden: Golden, names: list[str], ids: list[list[int]], pixels: Tensor, layout: str
) -> Iterator[tuple[str, Tensor]]:
    """The loss of the fixed draws; ``labels`` are the classes, ``image_index`` the two images of each text."""
    batch = _batch(ids, pixels, list(range(len(ids))))
    coins = fixed_coins(golden.inputs["nlvr_pretrain_rand_sequence"], len(ids))
    seen: dict[str, Tensor] = {}

    def largest(weights_TI: Tensor) -> Tensor:
        seen["weights"] = weights_TI
        seen["draws"] = weights_TI.topk(2).indices
        return seen["draws"]

    task = AssignTextTask(
        released_model(golden, "nlvr_pretrain", layout),
        AssignText(coins=lambda texts, device: coins, draw=largest),
    ).eval()
    task.model.heads["assign"].register_forward_hook(lambda module, inputs, output: seen.update(logits=output))
    output = task(batch, task.counts(batch))
    output.loss.backward()
    others = torch.full((len(ids),), len(ids) - 1)
    chosen, label = assign(batch.text_image, others, coins, seen["draws"])
    for name in names:
        last = name.rpartition("/")[2]
        if last.startswith("loss"):
            yield name, output.loss
        elif last.endswith("logits") or last.startswith("pred"):
            yield name, seen["logits"]
        elif last.startswith(("label", "target")):
            yield name, label
        elif last.startswith("image_index"):
            yield name, chosen
        elif last == "weights":
            yield name, seen["weights"]
    for prefix in _tables(names):
        yield from gradient_tables(golden, prefix, task.model, layout)


def _tables(names: list[str]) -> list[str]:
    """The prefixes of the gradient tables among the names."""
    return list(dict.fromkeys(name.rpartition("__grad_")[0] for name in names if "__grad_" in name))


def fixed_coins(sequence: list[float], texts: int) -> Tensor:
    """The original takes a second number only for a text that is shown with its own image: as two a text."""
    numbers = iter(sequence)
    rows = []
    for _ in range(texts):
        first = next(numbers)
        rows.append([first, next(numbers) if first > 1 / 3 else 0.0])
    return torch.tensor(rows)
