"""Every array of the groups ``nlvr/`` and ``nlvr_pretrain/`` of ALBEF's reference numbers, computed with this library.

A run's setting is read from its name: ``nodistill``, ``alpha0``, ``alpha04`` and so on; in `nlvr_pretrain` the original
has no settings, so a name says only what it holds.
"""

import re
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from tests.parity.albef_pretrain import alpha_of
from tests.parity.golden import Golden, images, weights
from wordregion.models.fusion import FusionModel
from wordregion.models.official import albef_names
from wordregion.models.two_images import pair_logits
from wordregion.models.zoo import albef_nlvr_base
from wordregion.schema import Batch
from wordregion.tasks.assign_text import AssignText, AssignTextTask, assign
from wordregion.tasks.nlvr import Nlvr, NlvrTask
from wordregion.tasks.teacher import update_teacher


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in both groups that `names` asks for and this module knows."""
    if tuning := [name for name in names if not name.startswith("nlvr_pretrain")]:
        state = weights(golden.manifest["models"]["nlvr"])
        yield from _logits(golden, state, tuning)
        for run in dict.fromkeys(run for name in tuning if (run := _run_of(name))):
            yield from _tuning(golden, state, run, [name for name in tuning if _run_of(name) == run])
    if pretraining := [name for name in names if name.startswith("nlvr_pretrain")]:
        yield from _pretraining(golden, pretraining)


def _run_of(name: str) -> str | None:
    """``nlvr/alpha04/loss`` and ``nlvr/alpha04__grad_l2`` -> ``nlvr/alpha04``."""
    found = re.match(r"nlvr/\w*?(nodistill|alpha\d+)(?=/|__|$)", name)
    return found[0] if found else None


def _model(state: dict[str, Tensor], size: int, head: Literal["nlvr", "assign"], momentum: bool = False) -> FusionModel:
    model = albef_nlvr_base(size, head, vision_weights=False, text_weights=False)
    own = model.state_dict()
    for name, value in own.items():
        theirs = _theirs(name, momentum)
        if theirs[0] in state:
            value.copy_(torch.cat([torch.atleast_1d(state[key]) for key in theirs]))
        else:  # fine-tuning has no contrast, the momentum copy no other parameter
            assert name == "temperature" or "_proj." in name, theirs
    return model.eval()


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
def _logits(golden: Golden, state: dict[str, Tensor], names: list[str]) -> Iterator[tuple[str, Tensor]]:
    if asked := [name for name in names if _run_of(name) is None and name.endswith("logits")]:
        model, batch = _model(state, 384, "nlvr"), _tuning_batch(golden)
        logits = pair_logits(model, batch, model.encode_image(batch.image))
        yield from ((name, logits) for name in asked)


def _tuning(golden: Golden, state: dict[str, Tensor], run: str, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    distill = 0.0 if run.endswith("nodistill") else alpha_of(f"alpha{run.rpartition('alpha')[2]}")
    task = NlvrTask(_model(state, 384, "nlvr"), Nlvr(distill=distill)).eval()
    if task.teacher is not None:
        task.teacher.load_state_dict(_model(state, 384, "nlvr", momentum=True).state_dict())
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
        for name, value in _split(task.teacher, momentum=True):
            yield f"{run}/after_update/{name}", value
    yield from _gradients(golden, task.model, names)


def _pretraining(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The loss of the fixed draws; ``labels`` are the classes, ``image_index`` the two images of each text."""
    ids = golden.inputs["captions_ids"]
    batch = _batch(ids, images((4, 3, 256, 256))[: len(ids)], list(range(len(ids))))
    coins = fixed_coins(golden.inputs["nlvr_pretrain_rand_sequence"], len(ids))
    seen: dict[str, Tensor] = {}

    def largest(weights_TI: Tensor) -> Tensor:
        seen["weights"] = weights_TI
        seen["draws"] = weights_TI.topk(2).indices
        return seen["draws"]

    state = weights(golden.manifest["models"]["nlvr_pretrain"])
    task = AssignTextTask(
        _model(state, 256, "assign"), AssignText(coins=lambda texts, device: coins, draw=largest)
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
    yield from _gradients(golden, task.model, names)


def fixed_coins(sequence: list[float], texts: int) -> Tensor:
    """The original takes a second number only for a text that is shown with its own image: as two a text."""
    numbers = iter(sequence)
    rows = []
    for _ in range(texts):
        first = next(numbers)
        rows.append([first, next(numbers) if first > 1 / 3 else 0.0])
    return torch.tensor(rows)


def _gradients(golden: Golden, model: FusionModel, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tables ``PREFIX__grad_l2`` and ``PREFIX__grad_first_mid`` that are asked for."""
    found = dict(_split(model, gradients=True))
    missing = torch.full((), float("nan"))
    for prefix in dict.fromkeys(name.rpartition("__grad_")[0] for name in names if "__grad_" in name):
        norms, ends = [], []
        for name in golden.manifest["outputs"][f"{prefix}__grad_names"]:
            flat = found[name].flatten() if name in found else None
            norms.append(missing if flat is None else flat.double().norm().float())
            ends.append(torch.stack([missing, missing] if flat is None else [flat[0], flat[flat.numel() // 2]]))
        yield f"{prefix}__grad_l2", torch.stack(norms)
        yield f"{prefix}__grad_first_mid", torch.stack(ends)


def _split(model: FusionModel, momentum: bool = False, gradients: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Parameters, or their gradients, under the original's names; shared ones under both of their names."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        value = parameter.grad if gradients else parameter
        if value is not None:
            theirs = _theirs(name, momentum)
            yield from zip(theirs, value.chunk(len(theirs)), strict=True)


def _theirs(ours: str, momentum: bool = False) -> list[str]:
    """Names of the original whose tensors, concatenated, are our parameter `ours`."""
    heads = {"heads.nlvr.hidden": "cls_head.0", "heads.nlvr.out": "cls_head.2", "heads.assign": "ta_head"}
    stem, _, kind = ours.rpartition(".")
    if stem in heads:
        names = [f"{heads[stem]}.{kind}"]
    elif found := re.match(r"fusion\.layers\.(\d+)\.(first|second)\.", ours):
        layer = 2 * int(found[1]) + (found[2] == "second")
        names = albef_names(f"fusion.layers.{layer}.{ours[found.end() :]}")
    else:
        names = albef_names(ours)
    names = [name.replace("text_encoder.bert.", "text_encoder.") for name in names]
    return [re.sub(r"^(\w+?)\.", r"\1_m.", name) for name in names] if momentum else names
