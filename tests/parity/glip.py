"""Every array of GLIP's reference numbers, computed with this library.

The folder has files of its own kind (see its README): for each variant ``manifest_V.json``, ``outputs_V.npz`` with
``outputs_V_index.json`` and ``grads_V.json``; ``inputs.json``, ``units_T.npz``, ``tuning_modes.json`` and
``data_goldens.json``. Names here: ``V/CASE/ARRAY``, ``V/CASE/grads/...``, ``units/ARRAY``, ``names/V``,
``tuning/MODE``, ``data/ENTRY``.
"""

import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity import glip_data
from tests.parity.golden import Verdict
from wordregion.engine.optim import parameter_groups
from wordregion.models.adapt import adapt
from wordregion.models.detect import Detections, detect
from wordregion.models.grounder import Grounder, TowerLayer
from wordregion.models.official import load_official
from wordregion.models.official_glip import GLIP, glip_checkpoint, official_names, to_glip, tower_names
from wordregion.nn.anchors import encode_boxes, make_anchors
from wordregion.nn.deep_fusion import DeepFusion, TextBlock
from wordregion.nn.dyhead import DyConv
from wordregion.nn.pyramid import LEVEL_STRIDES
from wordregion.recipes.glip import OPTIMISER
from wordregion.schema import Batch
from wordregion.tasks.ground import Ground, assign

LAYOUTS = {"A": "glip/tiny_a", "T": "glip/tiny"}
TOKENS = 256
LOGITS, VALUES, LOSSES, PIXELS = 1e-3, 2e-4, 1e-4, 2e-2
GRADIENTS = {"norm": 2e-3, "sum": 6e-3}
"""The same program on the same machine differs by 1e-3 in norms and 3e-3 in sums, plain and with checked annotations:
kernels take other ways through memory that lies elsewhere, and fifty layers amplify it."""
"""Tolerances: absolute, the last but two relative; logits and values as the folder's README suggests."""
ALLOWANCE = 2
"""Detections of 100 that may differ: they are cut by a rank, and a suppression may tip."""
Array = tuple[str, np.ndarray, dict[str, Any]]


@dataclass(frozen=True)
class Folder:
    path: Path

    @cached_property
    def inputs(self) -> dict[str, Any]:
        return self.json("inputs.json")

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def variants(self) -> list[str]:
        return [variant for variant in LAYOUTS if (self.path / f"outputs_{variant}.npz").is_file()]

    def arrays(self, variant: str) -> dict[str, Array]:
        """Name, stored array and index entry of each array; statistics are under their own name."""
        with np.load(self.path / f"outputs_{variant}.npz") as file:
            stored = dict(file.items())
        index = self.json(f"outputs_{variant}_index.json")
        found: dict[str, Array] = {}
        for name, value in stored.items():
            if name.endswith("@stats"):
                continue
            plain = name.removesuffix("@sample")
            entry = dict(index.get(plain, {"shape": list(value.shape), "stored": "full"}))
            entry["stats"] = stored.get(f"{plain}@stats")
            found[plain] = (plain, value, entry)
        return found

    def weights(self, variant: str) -> dict[str, Tensor]:
        """The released tensors, by the rule of the folder's README; buffers that are kept are left out."""
        keys = self.json(f"manifest_{variant}.json")["keys"]
        return {
            name: draw(name, entry["shape"], entry["offset"], entry["scale"])
            for name, entry in keys.items()
            if entry["kind"] != "buffer_kept"
        }


def draw(name: str, shape: list[int], offset: float, scale: float) -> Tensor:
    z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    return torch.from_numpy(np.asarray(offset + scale * z, dtype=np.float32))


def picture(entry: dict[str, Any], inputs: dict[str, Any]) -> Tensor:
    """(3, h, w) normalised, in the order of our models: red, green, blue."""
    generator = np.random.Generator(np.random.PCG64(entry["seed"]))
    h, w = entry["h"], entry["w"]
    tiles = generator.integers(0, 256, size=(h // 32, w // 32, 3)).repeat(32, 0).repeat(32, 1)
    pixels = np.clip(tiles + generator.integers(-40, 41, size=(h, w, 3)), 0, 255).astype(np.float32)
    mean, std = (np.array(inputs[key], np.float32) for key in ("mean", "std"))
    return torch.from_numpy(((pixels - mean) / std)[..., ::-1].transpose(2, 0, 1).copy())


def batch_of(inputs: dict[str, Any], count: int) -> Batch:
    """The first `count` images, each with its caption and its boxes."""
    images = [picture(inputs[f"image{i + 1}"], inputs) for i in range(count)]
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    ids = torch.tensor([row + [inputs["pad_id"]] * (TOKENS - len(row)) for row in inputs["input_ids"][:count]])
    boxes, text, tokens = [], [], []
    for i in range(count):
        h, w = images[i].shape[1:]
        for box, positive in zip(inputs["targets"][i]["boxes_xyxy"], inputs["train_positive_tokens"][i], strict=True):
            boxes.append([box[0] / w, box[1] / h, (box[2] + 1) / w, (box[3] + 1) / h])
            text.append(i)
            tokens.append(torch.isin(torch.arange(TOKENS), torch.tensor(positive)))
    return Batch(
        image=torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images]),
        image_key=torch.arange(count),
        image_size=torch.tensor([image.shape[1:] for image in images]),
        token_ids=ids,
        token_mask=torch.arange(TOKENS) < torch.tensor(inputs["n_tokens"][:count])[:, None],
        text_image=torch.arange(count),
        grounding_text=torch.tensor(text),
        grounding_tokens=torch.stack(tokens),
        box=torch.tensor(boxes),
        box_grounding=torch.arange(len(boxes)),
    )


def released(folder: Folder, variant: str) -> tuple[Grounder, dict[str, Tensor]]:
    """The model of a variant, strictly loaded, and the released tensors."""
    state = folder.weights(variant)
    model, report = load_official(state, LAYOUTS[variant])
    assert isinstance(model, Grounder)
    assert not report.new
    assert not report.resized
    assert set(report.ignored) == {"rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias"}, report.ignored
    return model, state


def variant_verdicts(folder: Folder, variant: str, only: str) -> Iterator[Verdict]:
    golden = folder.arrays(variant)
    tables = folder.json(f"grads_{variant}.json") if (folder.path / f"grads_{variant}.json").is_file() else {}
    cases = list(dict.fromkeys([*(name.split("/")[0] for name in golden), *tables]))
    asked = [case for case in cases if f"{variant}/{case}".startswith(only) or only.startswith(f"{variant}/{case}")]
    if not asked:
        return
    model, state = released(folder, variant)
    for case in asked:
        mine = {name: entry for name, entry in golden.items() if f"{variant}/{name}".startswith(only)}
        left = {name for name in mine if name.startswith(f"{case}/") and not name.startswith(f"{case}/loss/")}
        own = {}
        if left:
            own = dict(case_arrays(folder, case, model, state))
            own |= dict(detections(folder, case, model, own))
        for name in sorted(left):
            stem = name.removeprefix(f"{case}/")
            if re.match(r"det\d+/", stem):
                continue
            if stem in own:
                yield compare(f"{variant}/{name}", mine[name], own[stem])
            else:
                yield Verdict(f"{variant}/{name} (not computed here)", math.inf, 0.0)
        for stem in sorted({name.split("/")[1] for name in left if re.match(r"\w+/det\d+/", name)}):
            theirs = {key: golden[f"{case}/{stem}/{key}"][1] for key in ("boxes", "scores", "labels")}
            yield from same_detections(f"{variant}/{case}/{stem}", theirs, own[stem])
        wanted = [f"{variant}/{case}/{kind}" for kind in ("loss", "grads")]
        if any(name.startswith(only) or only.startswith(name) for name in wanted):
            yield from training(folder, variant, case, model, mine, tables.get(case))


def case_arrays(folder: Folder, case: str, model: Grounder, state: dict[str, Tensor]) -> Iterator[tuple[str, Any]]:
    """Everything of a case but detections and losses, by the name in the folder."""
    inputs = folder.inputs
    batch = batch_of(inputs, {"single": 1, "batch2": 2}[case])
    valid = inputs["n_tokens"][0]
    seen: dict[str, Any] = {}
    hooks = []
    step = 3 if model.tower[0].fusion is not None else 1

    def keep(module: nn.Module, name: str) -> None:
        hooks.append(module.register_forward_hook(lambda m, given, out: seen.__setitem__(name, out)))

    hooks.append(
        model.vision.body.layers[1].downsample.register_forward_pre_hook(
            lambda m, given: seen.__setitem__("C2", given[0].permute(0, 3, 1, 2))
        )
    )
    keep(model.vision, "vision")
    keep(model.pyramid, "fpn")
    keep(model.text, "text")
    for number, layer in enumerate(model.tower):
        keep(layer.conv, f"tower{step * number + step - 1:02}_dyconv")
        if layer.fusion is not None:
            keep(layer.fusion, f"tower{3 * number:02}_fuse")
            keep(layer.text, f"tower{3 * number + 1:02}_bert")
    with torch.no_grad():
        grounded = model(batch.image, batch.token_ids, batch.token_mask, batch.text_image)
    for hook in hooks:
        hook.remove()
    yield "grounded", grounded
    yield "batch", batch
    yield "backbone/C2", seen["C2"]
    for number, value in enumerate(seen["vision"]):
        yield f"backbone/C{number + 3}", value
    for number, value in enumerate(seen["fpn"]):
        yield f"fpn/P{number + 3}", value
    mask = batch.token_mask[..., None]
    yield "lang/hidden", seen["text"]
    yield "lang/hidden_valid", seen["text"][:, :valid]
    yield "lang/embedded", seen["text"] * mask
    yield "lang/aggregate", (seen["text"] * mask).sum(1) / mask.sum(1)
    for name, value in seen.items():
        if not name.startswith("tower"):
            continue
        if name.endswith("_dyconv"):
            levels, hidden = value, None
        elif name.endswith("_fuse"):
            flat, hidden = value
            sizes = [h * w for h, w in grounded.sizes]
            parts = zip(flat.split(sizes, 1), grounded.sizes, strict=True)
            levels = [part.transpose(1, 2).unflatten(2, size) for part, size in parts]
        else:
            levels, hidden = [], value
        for number, level in enumerate(levels):
            yield f"{name}/v{number + 3}", level
        if hidden is not None:
            yield f"{name}/hidden", hidden
            yield f"{name}/hidden_valid", hidden[:, :valid]
    last = seen[max(name for name in seen if name.endswith("_dyconv"))]
    counts = [h * w for h, w in grounded.sizes]
    heads = zip(*(part.split(counts, 1) for part in (grounded.logits, grounded.delta, grounded.centre)), strict=True)
    for number, ((logits, delta, centre), size) in enumerate(zip(heads, grounded.sizes, strict=True)):
        stem = f"head/level{number + 3}"
        yield f"{stem}/dot_product_logits", logits
        yield f"{stem}/dot_product_logits_valid", logits[..., :valid]
        yield f"{stem}/box_regression", delta.transpose(1, 2).unflatten(2, size)
        yield f"{stem}/centerness", centre[:, None].unflatten(2, size)
        # an output of the original that nothing uses: its weights on our tower's result
        unused = (state[f"rpn.head.cls_logits.{kind}"] for kind in ("weight", "bias"))
        yield f"{stem}/box_cls_unused", F.conv2d(last[number], *unused)
    yield "cell_anchors", torch.cat(make_anchors([(1, 1)] * 5, LEVEL_STRIDES))
    found = assign(batch)
    labels = torch.tensor([label for target in inputs["targets"][: len(batch.image)] for label in target["labels"]])
    table = torch.zeros(len(batch.image), sum(counts), dtype=torch.long)
    table[found.pair, found.place] = labels[found.owner]
    yield "assign/labels", table
    yield "assign/pos_index", torch.stack([found.pair, found.place], 1)
    yield "assign/pos_reg_targets", encode_boxes(found.box, found.anchor)
    yield "assign/pos_centerness_targets", found.centre


def detections(folder: Folder, case: str, model: Grounder, own: dict[str, Any]) -> Iterator[tuple[str, Detections]]:
    batch = own["batch"]
    labels = folder.inputs["label_to_tokens"][0]
    tokens = torch.zeros(len(labels), TOKENS, dtype=torch.bool)
    for row, positions in enumerate(labels.values()):
        tokens[row, positions] = True
    count = len(batch.image)
    for number, found in enumerate(
        detect(own["grounded"], [tokens] * count, [tuple(size) for size in batch.image_size.tolist()])
    ):
        yield f"det{number}", found


def same_detections(stem: str, theirs: dict[str, np.ndarray], ours: Detections) -> Iterator[Verdict]:
    """As sets: each of theirs has one of ours with its label, nearly its box and its score."""
    box, score, label = torch.from_numpy(theirs["boxes"]), torch.from_numpy(theirs["scores"]), theirs["labels"]
    apart = (box[:, None] - ours.box).abs().amax(-1)
    far = (torch.from_numpy(label)[:, None] != ours.label + 1) | ((score[:, None] - ours.score).abs() > 10 * VALUES)
    nearest, chosen = apart.masked_fill(far, math.inf).min(1)
    pairs = nearest < 1.0
    lone = int((~pairs).sum()) + len(ours.label) - len(chosen[pairs].unique())
    yield Verdict(f"{stem}/boxes", float(nearest[pairs].max()), PIXELS)
    yield Verdict(f"{stem}/scores", float((score[pairs] - ours.score[chosen[pairs]]).abs().max()), VALUES)
    yield Verdict(f"{stem}/labels (without a partner)", float(lone), float(ALLOWANCE))


def training(
    folder: Folder, variant: str, case: str, model: Grounder, golden: dict[str, Array], table: dict | None
) -> Iterator[Verdict]:
    """Losses in evaluation mode, and the norm and sum of each gradient of their sum."""
    batch = batch_of(folder.inputs, {"single": 1, "batch2": 2}[case])
    task = Ground().build(model).eval()
    model.zero_grad()
    output = task(batch, task.counts(batch))
    ours = {
        "loss_reg": output.metrics["boxes"],
        "loss_centerness": output.metrics["centre"],
        "loss_dot_product_token": output.metrics["words"],
        "loss_cls": output.loss.new_zeros(()),  # the original's loss of fixed classes, switched off
        "total": output.loss.detach(),
    }
    for name, (_, value, _) in golden.items():
        if name.startswith(f"{case}/loss/"):
            mine, theirs = float(ours[name.rsplit("/", 1)[1]]), float(value)
            yield Verdict(f"{variant}/{name}", abs(mine - theirs) / max(abs(theirs), 1e-12) if theirs else mine, LOSSES)
    if table is None:
        return
    output.loss.backward()
    gradients = to_glip(model, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    theirs = {name: entry for name, entry in table.items() if entry is not None}
    odd = sorted(set(gradients) ^ set(theirs))
    yield Verdict(f"{variant}/{case}/grads/names {' '.join(odd[:3])}", float(len(odd)), 0.0)
    largest = max(entry[0] for entry in theirs.values())
    worst = {"norm": (0.0, ""), "sum": (0.0, "")}
    for name, (norm, total) in theirs.items():
        gradient = gradients[name].double()
        # a gradient that is zero in exact arithmetic is rounding noise: it is held to an absolute bound
        scale = max(norm, 1e-5 * largest)
        worst["norm"] = max(worst["norm"], (abs(float(gradient.norm()) - norm) / scale, name))
        share = scale * max(1.0, math.sqrt(gradient.numel()) / 10)
        worst["sum"] = max(worst["sum"], (abs(float(gradient.sum()) - total) / share, name))
    for kind, (difference, name) in worst.items():
        yield Verdict(f"{variant}/{case}/grads/{kind} (worst: {name})", difference, GRADIENTS[kind])
    model.zero_grad()


def units(folder: Folder, only: str) -> Iterator[Verdict]:
    """Single modules of variant T."""
    keys = folder.json("manifest_T.json")["keys"]
    with np.load(folder.path / "units_T.npz") as file:
        golden = {name: value for name, value in file.items() if f"units/{name}".startswith(only)}
    if not golden:
        return
    layer = first_layer(keys)
    maps = [noise(100 + i, (2, 256, h, w)) for i, (h, w) in enumerate([(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)])]
    hidden = noise(110, (2, 256, 768))
    mask = torch.arange(256) < torch.tensor([[20], [7]])
    with torch.no_grad():
        own = dict(unit_arrays(layer, maps, hidden, mask))
    for name, value in golden.items():
        if name in own:
            yield compare(f"units/{name}", (name, value, {"shape": list(value.shape), "stored": "full"}), own[name])
        else:
            yield Verdict(f"units/{name} (not computed here)", math.inf, 0.0)


def noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32))


def first_layer(keys: dict[str, Any]) -> nn.Module:
    layer = TowerLayer(DyConv(), DeepFusion(), TextBlock(768, 12, 3072)).eval()
    state = {}
    for ours in layer.state_dict():
        theirs = tower_names(f"tower.0.{ours}", fused=True)
        state[ours] = torch.cat([draw(n, *(keys[n][k] for k in ("shape", "offset", "scale"))) for n in theirs])
    layer.load_state_dict(state)
    return layer


def unit_arrays(layer: Any, maps: list[Tensor], hidden: Tensor, mask: Tensor) -> Iterator[tuple[str, Tensor]]:
    flat = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)
    fused, text = layer.fusion(flat, hidden, mask)
    for number, (part, level) in enumerate(zip(fused.split([m[0, 0].numel() for m in maps], 1), maps, strict=True)):
        yield f"fuse/v{number}", part.transpose(1, 2).reshape(level.shape)[:, ::8]
    yield "fuse/hidden", text[:, :32, ::8]
    yield "fuse/hidden_last", text[:, 255]
    seen = layer.fusion.attend(layer.fusion.image_norm(flat), layer.fusion.text_norm(hidden), mask)
    yield "fuse/delta_v", seen[0][:, ::7, ::8]
    yield "fuse/delta_l", seen[1][:, ::7, ::8]
    text = layer.text(hidden, mask[:, None, None])
    yield "bert_layer/hidden", text[:, :32, ::8]
    yield "bert_layer/hidden_last", text[:, 255]
    calls: list[tuple[str, Tensor]] = []
    size: list[tuple[int, ...]] = []
    for number, name in enumerate(("coarser", "same", "finer")):
        branch = getattr(layer.conv, name)
        branch.register_forward_pre_hook(lambda m, given: size.append(tuple(given[0].shape[2:])))
        branch.norm.register_forward_pre_hook(
            lambda m, given, number=number: calls.append(
                (f"call{len(calls):02}_branch{number}_in({size[-1][0]},{size[-1][1]})", given[0])
            )
        )
    inside: list[tuple[str, Tensor]] = []
    layer.conv.activation.register_forward_pre_hook(
        lambda m, given: inside.append((f"dyrelu_in_({given[0].shape[2]},{given[0].shape[3]})", given[0]))
    )
    levels = layer.conv(maps)
    for name, value in (*calls, *inside):
        yield f"dyconv/{name}", value[:, ::16]
    for number, level in enumerate(levels):
        yield f"dyconv/v{number}", level[:, ::8]
    yield "dyrelu/out", layer.conv.activation(maps[1])[:, ::8]


def shapes_only(variant: str) -> Grounder:
    """A model without numbers."""
    with torch.device("meta"):
        return GLIP[LAYOUTS[variant]]()


def names(folder: Folder, only: str) -> Iterator[Verdict]:
    """What we write of a variant has the names and shapes of the released checkpoint, and the other way round."""
    for variant in LAYOUTS:
        if not f"names/{variant}".startswith(only) or not (folder.path / f"manifest_{variant}.json").is_file():
            continue
        ours = {name: list(value.shape) for name, value in glip_checkpoint(shapes_only(variant)).items()}
        keys = folder.json(f"manifest_{variant}.json")["keys"]
        theirs = {name: entry["shape"] for name, entry in keys.items()}
        odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        yield Verdict(f"names/{variant} {' '.join(odd[:3])}", float(len(odd)), 0.0)


def round_trips(folder: Folder, only: str) -> Iterator[Verdict]:
    """From a released checkpoint to ours and back: the same tensors, but for the classifier that GLIP never uses."""
    for variant in LAYOUTS:
        if not f"round_trip/{variant}".startswith(only) or not (folder.path / f"manifest_{variant}.json").is_file():
            continue
        model, theirs = released(folder, variant)
        ours = glip_checkpoint(model)
        kept = {name for name in ours if "cls_logits" not in name}
        kinds = {name: entry["kind"] for name, entry in folder.json(f"manifest_{variant}.json")["keys"].items()}
        odd = sorted(kinds.keys() ^ ours.keys())
        odd += [name for name in kept & theirs.keys() if not same_tensor(ours[name], theirs[name])]
        odd += [name for name in kept - theirs.keys() if kinds[name] != "buffer_kept"]
        yield Verdict(f"round_trip/{variant} {' '.join(odd[:3])}", float(len(odd)), 0.0)


def same_tensor(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and ours.dtype == theirs.dtype and torch.equal(ours, theirs)


MODES = {
    "full": "full",
    "linear_prob": "linear",
    "language_prompt_v1": "text",
    "language_prompt_v2": "prompt",
    "language_prompt_v3": "text",
    "language_prompt_v4": "prompt",
}


def tuning(folder: Folder, only: str) -> Iterator[Verdict]:
    golden = {name: entry for name, entry in folder.json("tuning_modes.json").items()}
    if not any(f"tuning/{name}".startswith(only) for name in golden):
        return
    model = shapes_only("T")
    for name, entry in golden.items():
        if not f"tuning/{name}".startswith(only):
            continue
        if name in MODES:
            adapt(model, MODES[name])
            trained = to_glip(model, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad})
            model.offset = None
            ours: dict[str, Any] = {"tensors": len(trained), "numbers": sum(v.numel() for v in trained.values())}
            theirs = {"tensors": entry["n_trainable_tensors"], "numbers": entry["n_trainable"]}
            if isinstance(entry["names"], dict):
                sums: dict[str, int] = {}
                for key, value in trained.items():
                    stem = ".".join(key.split(".")[:3])
                    sums[stem] = sums.get(stem, 0) + value.numel()
                ours["names"], theirs["names"] = sums, entry["names"]
            else:
                ours["names"], theirs["names"] = sorted(trained), sorted(entry["names"])
            yield glip_data.exact(f"tuning/{name}", ours, theirs)
        elif name in ("optimizer_groups", "relpos_lr"):
            groups = optimiser_groups(adapt(model, "full"))
            if name == "optimizer_groups":
                counts = {key: len(members) for key, members in groups.items()}
                yield glip_data.exact(f"tuning/{name}", counts, {key: own["n"] for key, own in entry.items()})
                lost = [own for key, group in entry.items() for own in group["examples"] if own not in groups[key]]
                yield glip_data.exact(f"tuning/{name}/examples", lost, [])
            else:
                keys = {key for key, members in groups.items() if any("relative_position" in own for own in members)}
                theirs_keys = {f"swin|lr={lr:.1e}|wd={decay}" for lr, decay in entry}
                yield glip_data.exact(f"tuning/{name}", keys, theirs_keys)
        else:
            yield Verdict(f"tuning/{name} (not computed here)", math.inf, 0.0)


def optimiser_groups(model: Grounder) -> dict[str, list[str]]:
    """Their names of the trained parameters, by part of the model, learning rate and weight decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    theirs = official_names(model)
    parts = {"vision": "swin", "text": "lang"}
    found: dict[str, list[str]] = {}
    for group in parameter_groups(model, OPTIMISER):
        for parameter in group["params"]:
            name = names[id(parameter)]
            part = parts.get(name.split(".")[0], "rest")
            key = f"{part}|lr={OPTIMISER.lr * group['lr_scale']:.1e}|wd={group['weight_decay']}"
            found.setdefault(key, []).extend(theirs[name])
    return found


def compare(name: str, golden: Array, ours: Tensor) -> Verdict:
    """Largest absolute difference; of a sampled array also of its statistics."""
    _, theirs, entry = golden
    own = np.asarray(ours.detach())
    tolerance = LOGITS if "logits" in name else VALUES
    if list(own.shape) != entry["shape"]:
        return Verdict(f"{name} (shape {list(own.shape)})", math.inf, 0.0)
    if entry.get("stats") is not None:
        flat = own.astype(np.float64)
        stats = [flat.mean(), flat.std(), np.linalg.norm(flat), flat.min(), flat.max()]
        if not np.allclose(stats, entry["stats"], rtol=1e-4, atol=tolerance):
            return Verdict(f"{name} (statistics)", float(np.abs(stats - entry["stats"]).max()), tolerance)
    if entry["stored"] == "sample":
        own = own.ravel()[:: entry["stride"]]
    if theirs.dtype.kind in "iub":
        return Verdict(name, float(np.abs(own.astype(np.int64) - theirs).max(initial=0)), 0.0)
    return Verdict(name, float(np.abs(own.astype(np.float64) - theirs).max(initial=0.0)), tolerance)


def verdicts(path: Path, only: str = "") -> Iterator[Verdict]:
    """Of everything in the folder whose name starts with `only`."""
    folder = Folder(path)
    for variant in folder.variants():
        if variant.startswith(only[:1]):
            yield from variant_verdicts(folder, variant, only)
    if (path / "units_T.npz").is_file():
        yield from units(folder, only)
    yield from names(folder, only)
    yield from round_trips(folder, only)
    if (path / "tuning_modes.json").is_file():
        yield from tuning(folder, only)
    if (path / glip_data.FILE).is_file():
        for verdict in glip_data.verdicts(path):
            if f"data/{verdict.name}".startswith(only):
                yield Verdict(f"data/{verdict.name}", verdict.difference, verdict.tolerance)


def is_glip(path: Path) -> bool:
    """Whether the folder is one of GLIP's."""
    return any((path / f"outputs_{variant}.npz").is_file() for variant in LAYOUTS) or (path / "units_T.npz").is_file()


def main(path: Path, only: str = "") -> int:
    """Prints each verdict; returns how many failed, or 1 if nothing was asked for."""
    found = 0
    failures = 0
    for verdict in verdicts(path, only):
        found += 1
        failures += not verdict.good
        print(
            f"{verdict.name:90} {verdict.difference:10.2e} {verdict.tolerance:10.2e} "
            f"{'ok' if verdict.good else 'FAILED'}",
            flush=True,
        )
    print(f"{found - failures} passed, {failures} failed")
    return failures if found else 1
