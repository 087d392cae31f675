"""A folder of reference numbers: deterministic weights by name, fixed inputs, arrays to match.

The generator follows the rules in the folder's README: PCG64 seeded with the CRC-32 of the name, times 0.02.
"""

import json
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SCALE = np.float32(0.02)


def draw(key: str, shape: list[int]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return generator.standard_normal(tuple(shape), dtype=np.float32) * SCALE


def images(shape: tuple[int, ...], seed: int = 7) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class Golden:
    folder: Path
    manifest: dict
    inputs: dict
    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path) -> "Golden":
        with np.load(folder / "outputs.npz") as file:
            arrays = dict(file.items())
        manifest = json.loads((folder / "manifest.json").read_text())
        return cls(folder, manifest, json.loads((folder / "inputs.json").read_text()), arrays)

    def names(self) -> list[str]:
        """Every array to compute, without the suffixes of sampled storage, in order."""
        stems = (key.removesuffix("__sample").removesuffix("__stats") for key in self.arrays)
        return list(dict.fromkeys(stems))

    def stored(self, name: str) -> str:
        entry = self.manifest["outputs"].get(name)
        return entry["stored"] if isinstance(entry, dict) else "full"


@lru_cache(maxsize=1)  # drawing takes longer than loading, and a group builds the same model several times
def weights(golden: Golden, model: str) -> dict[str, Tensor]:
    """State dict of a model of the manifest, to be read only; buffers that keep their initial value are left out."""
    state: dict[str, Tensor] = {}
    for entry in golden.manifest["models"][model]:
        key, shape, init = entry["key"], entry["shape"], entry["init"]
        if init == "normal":
            state[key] = torch.from_numpy(draw(key, shape))
        elif init == "one_plus_normal":
            state[key] = torch.from_numpy(draw(key, shape) + np.float32(1))
        elif init == "tied":
            state[key] = state[entry["tied_to"]]
        elif init == "buffer:normal_l2norm_dim0":
            array = draw(key, shape)
            state[key] = torch.from_numpy(array / np.maximum(np.linalg.norm(array, axis=0, keepdims=True), 1e-12))
        elif init.startswith("const:"):
            state[key] = torch.full(shape, float(init.removeprefix("const:")))
        elif init != "buffer:keep":
            raise ValueError(f"manifest.json, model key {key}: unknown init '{init}'")
    return state


@dataclass(frozen=True)
class Verdict:
    name: str
    difference: float
    tolerance: float

    @property
    def good(self) -> bool:
        return self.difference <= self.tolerance


def compare(golden: Golden, name: str, ours: np.ndarray) -> Verdict:
    """Largest difference of an array, in the measure that the folder's README suggests for its kind."""
    if name in golden.arrays:
        theirs = golden.arrays[name]
    else:
        stride = int(golden.stored(name).split("flat[::")[1].split("]")[0])
        theirs = golden.arrays[f"{name}__sample"]
        stats = golden.arrays[f"{name}__stats"]
        flat = np.asarray(ours, dtype=np.float64).ravel()
        own_stats = np.array([flat.mean(), flat.std(), np.linalg.norm(flat), flat.min(), flat.max()])
        if list(ours.shape) != golden.manifest["outputs"][name]["shape"]:
            return Verdict(name, float("inf"), 0.0)
        if not np.allclose(own_stats, stats, rtol=1e-4, atol=1e-4):
            return Verdict(f"{name} (statistics)", float(np.abs(own_stats - stats).max()), 1e-4)
        ours = ours.ravel()[::stride]
    if ours.shape != theirs.shape:
        return Verdict(name, float("inf"), 0.0)
    if theirs.dtype.kind in "iub":
        return Verdict(name, float(np.abs(ours.astype(np.int64) - theirs.astype(np.int64)).max(initial=0)), 0.0)
    if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        return Verdict(name, float("inf"), 0.0)
    difference = np.nan_to_num(np.abs(ours.astype(np.float64) - theirs), nan=0.0)
    if name.endswith("__grad_l2"):
        # a gradient that is zero in exact arithmetic (a key's bias) is rounding noise: it is held to an absolute bound
        scale = np.maximum(np.nan_to_num(np.abs(theirs)), 1e-4 * np.nanmax(np.abs(theirs)))
        return Verdict(name, float((difference / scale).max()), 1e-3)
    if name.endswith("__grad_first_mid"):
        return Verdict(name, float(difference.max()), 1e-4 * max(1.0, float(np.nanmax(np.abs(theirs)))))
    if "loss" in name.rsplit("/", 1)[-1]:
        return Verdict(name, float((difference / np.maximum(np.abs(theirs), 1e-12)).max()), 2e-5)
    if name.startswith("gradcam/"):  # maps are of the order of 1e-5: an absolute bound would pass anything
        return Verdict(name, float(difference.max()), 1e-3 * float(np.abs(theirs).max()))
    # one AdamW step moves a value by 1e-4, a momentum update by less: they need tighter bounds than activations
    tolerance = 5e-6 if "/after_adamw_step/" in name else 1e-6 if "/after_update/" in name else 1e-4
    return Verdict(name, float(difference.max(initial=0.0)), tolerance)
