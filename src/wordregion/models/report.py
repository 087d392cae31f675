"""Filling a model from named tensors, strictly, with a report of what happened to every name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wordregion.errors import CheckpointError

SHOWN = 6


@dataclass(frozen=True)
class LoadReport:
    """What became of every parameter of a model, and of every tensor of the file it was filled from.

    Attributes:
        source: the file.
        loaded: our names that took a value from the file.
        renamed: of these, those whose value has another name (or several) in the file.
        resized: of these, those brought to another shape: (in the file, in the model).
        new: our names left at their constructor value.
        ignored: names in the file that the model has no use for.
    """

    source: str
    loaded: tuple[str, ...]
    renamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resized: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} loaded, of which {len(self.renamed)} under another name"]
        for name, (old, now) in self.resized.items():
            lines.append(f"  resized: {name} {old} -> {now}")
        lines += [f"  at constructor value: {part}" for part in _shown(self.new)]
        lines += [f"  ignored: {part}" for part in _shown(self.ignored)]
        return "\n".join(lines)


def fill(
    model: nn.Module,
    state: Mapping[str, Tensor],
    names: Mapping[str, tuple[str, ...]],
    source: str,
    new: tuple[str, ...] = (),
) -> LoadReport:
    """Fills a model; nothing is left at its constructor value unless `new` allows it.

    Args:
        model: takes the values.
        state: the tensors of the file.
        names: for each name in the model's state dict the names in the file whose tensors, concatenated along
            dimension 0, are its value. A tied tensor needs the value of one of its names.
        source: the file, for errors.
        new: prefixes of our names that may keep their constructor value, if the file lacks them or has another shape.

    Raises:
        CheckpointError: listing the missing and misshapen names. The model is then unchanged.
    """
    values: dict[str, Tensor] = {}
    renamed: dict[str, tuple[str, ...]] = {}
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    fresh: list[str] = []
    wrong: dict[str, list[str]] = {"missing": [], "of another shape": []}
    used: set[str] = set()
    for group, mine in tied_groups(model):
        ours, may_stay = group[0], group[0].startswith(new)
        found = [names[name] for name in group if name in names and all(key in state for key in names[name])]
        if not found:
            (fresh if may_stay else wrong["missing"]).append(ours)
            continue
        value = torch.cat([torch.atleast_1d(state[key]) for key in found[0]])
        value = value[(None,) * (mine.ndim - value.ndim)]  # CLIP's class token and positions lack the batch's dimension
        shape = tuple(value.shape)
        if ours.endswith("relative_position_bias_table"):
            value = fit_relative_positions(value, len(mine))
        if ours.endswith("pos_embed"):
            value = fit_positions(
                value, mine.shape[1], int(getattr(getattr(model, "vision", None), "prefix_tokens", 1))
            )
        if value.shape != mine.shape and not value.numel() == mine.numel() == 1:
            (fresh if may_stay else wrong["of another shape"]).append(
                ours if may_stay else f"{ours} {shape} for {tuple(mine.shape)}"
            )
            continue
        values[ours] = value.reshape(mine.shape)
        used.update(key for theirs in found for key in theirs)
        if shape != tuple(value.shape):
            resized[ours] = (shape, tuple(value.shape))
        if not any((name,) in found for name in group):
            renamed[ours] = found[0]
    if problems := [f"{len(n)} {what} ({', '.join(_shown(n))})" for what, n in wrong.items() if n]:
        raise CheckpointError(
            f"{source}: does not fill this {type(model).__name__}: {'; '.join(problems)}. Use a checkpoint of this "
            "architecture and these heads."
        )
    model.load_state_dict(values, strict=False)
    return LoadReport(
        source, tuple(values), renamed, resized, tuple(fresh), tuple(key for key in state if key not in used)
    )


def tied_groups(model: nn.Module) -> list[tuple[tuple[str, ...], Tensor]]:
    """Every tensor of a model's state dict once, with all the names it has there."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    return [(tuple(group), tensors[key].detach()) for key, group in names.items()]


def fit_positions(table: Float[Tensor, "1 old D"], rows: int, prefix: int) -> Float[Tensor, "1 new D"]:
    """`resize_positions` to `rows` rows in all, or the table as it is where that is no other square grid."""
    old, new = table.shape[1] - prefix, rows - prefix
    square = math.isqrt(max(old, 0)) ** 2 == old and math.isqrt(max(new, 0)) ** 2 == new
    return resize_positions(table, new, prefix) if square and old != new else table


def resize_positions(table: Float[Tensor, "1 old D"], tokens: int, prefix: int = 1) -> Float[Tensor, "1 new D"]:
    """Position embeddings for another image size: bicubic over the grid, the first `prefix` rows kept.

    Args:
        table: prefix rows, then a square grid in row-major order.
        tokens: grid tokens wanted, a square number.
        prefix: rows that are not part of the grid ([CLS]).
    """
    head, grid = table[:, :prefix], table[:, prefix:]
    old, new = round(grid.shape[1] ** 0.5), round(tokens**0.5)
    if old == new:
        return table
    square = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([head, square.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def fit_relative_positions(table_OH: Float[Tensor, "O H"], rows: int) -> Float[Tensor, "R H"]:
    """`resize_relative_positions` to `rows` rows, or the table as it is where either is no square."""
    old, new = math.isqrt(len(table_OH)), math.isqrt(rows)
    square = old * old == len(table_OH) and new * new == rows
    return resize_relative_positions(table_OH, new) if square and old != new else table_OH


def resize_relative_positions(table_OH: Float[Tensor, "O H"], side: int) -> Float[Tensor, "R H"]:
    """Swin's relative position table of another window: a cubic spline over positions that grow apart (X-VLM, BEiT).

    The old positions are spread over the new table's width in geometric progression from the centre, so that near
    distances keep their values and far ones are stretched.

    Args:
        table_OH: ``(2 window - 1)^2`` rows in row-major order, a column for each head.
        side: of the new table, odd: 2 window - 1.
    """
    old = math.isqrt(len(table_OH))
    weight_RO = _spline(_spread(old // 2, side // 2), np.arange(-(side // 2), side // 2 + 1.0))
    weight = torch.from_numpy(weight_RO).to(table_OH.device)
    square = table_OH.double().view(old, old, -1)
    return torch.einsum("yo,xp,oph->yxh", weight, weight, square).flatten(0, 1).to(table_OH.dtype)


def _spread(steps: int, reach: int) -> np.ndarray:
    """Positions ``-x_n .. 0 .. x_n`` with ``x_k = 1 + q + .. + q^(k-1)``, where q makes x_n equal to `reach`."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if (middle**steps - 1) / (middle - 1) > reach else (middle, high)
    growing = np.cumsum(high ** np.arange(steps)) if reach > steps else np.arange(1.0, steps + 1) * reach / steps
    return np.concatenate([-growing[::-1], [0.0], growing])


def _spline(at_O: np.ndarray, wanted_R: np.ndarray) -> np.ndarray:
    """(R, O) weights that interpolate values at `at_O` by a cubic spline (not-a-knot); constant beyond its ends."""
    count, gap = len(at_O), np.diff(at_O)
    # second derivatives m of the spline from the values y: A m = B y
    a, b = np.zeros((count, count)), np.zeros((count, count))
    for i in range(1, count - 1):
        a[i, i - 1 : i + 2] = gap[i - 1] / 6, (gap[i - 1] + gap[i]) / 3, gap[i] / 6
        b[i, i - 1 : i + 2] = 1 / gap[i - 1], -1 / gap[i - 1] - 1 / gap[i], 1 / gap[i]
    a[0, :3] = gap[1], -gap[0] - gap[1], gap[0]  # the third derivative does not jump at the first inner point
    a[-1, -3:] = gap[-1], -gap[-1] - gap[-2], gap[-2]
    curvature_OO = np.linalg.solve(a, b)
    x = wanted_R.clip(at_O[0], at_O[-1])
    piece = np.searchsorted(at_O, x, side="right").clip(1, count - 1) - 1
    width = gap[piece]
    right = (x - at_O[piece]) / width
    left = 1 - right
    values = np.eye(count)
    bend = (left**3 - left)[:, None] * curvature_OO[piece] + (right**3 - right)[:, None] * curvature_OO[piece + 1]
    return left[:, None] * values[piece] + right[:, None] * values[piece + 1] + bend * width[:, None] ** 2 / 6


def _shown(names: Sequence[str]) -> list[str]:
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [*names[:SHOWN], *more]
