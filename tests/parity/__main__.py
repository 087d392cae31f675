"""``python -m tests.parity DIR [--only PREFIX]``: compares every array of a folder of reference numbers with ours."""

import argparse
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from tests.parity import (
    albef_entailment,
    albef_gradcam,
    albef_nlvr,
    albef_pretrain,
    albef_retrieval,
    albef_schedules,
    albef_vqa,
    conversions,
    glip,
    relative_positions,
    xvlm_captioning,
    xvlm_pretrain,
    xvlm_tasks,
)
from tests.parity.golden import Golden, Verdict, compare

GROUPS = {
    "albef": {
        "pretrain": albef_pretrain.arrays,
        "retrieval": albef_retrieval.arrays,
        "ve": albef_entailment.arrays,
        "gradcam": albef_gradcam.arrays,
        "vqa": albef_vqa.arrays,
        "nlvr": albef_nlvr.arrays,
        "nlvr_pretrain": albef_nlvr.arrays,
    },
    "xvlm": {
        "boxmask": xvlm_pretrain.arrays,
        "pretrain_swin": xvlm_pretrain.arrays,
        "pretrain_clip": xvlm_pretrain.arrays,
        "deit_vision_only": xvlm_pretrain.arrays,
        "retrieval": xvlm_tasks.arrays,
        "gradcam": xvlm_tasks.arrays,
        "bbox": xvlm_tasks.arrays,
        "vqa": xvlm_tasks.arrays,
        "nlvr": xvlm_tasks.arrays,
        "nlvr_pretrain": xvlm_tasks.arrays,
        "captioning": xvlm_captioning.arrays,
    },
}
FILES = {"lr_schedule": albef_schedules, "conversions": conversions, "relative_position_interp": relative_positions}


def system_of(golden: Golden) -> str:
    """X-VLM's models have a vision encoder, ALBEF's a visual one."""
    keys = (entry["key"] for entries in golden.manifest["models"].values() for entry in entries)
    return "xvlm" if any(key.startswith("vision_encoder.") for key in keys) else "albef"


def files(golden: Golden, system: str, only: str) -> Iterator[Verdict]:
    """What the folder tells beside its arrays, in files of their own."""
    for name, module in FILES.items():
        asked = f"{name}/".startswith(only) or only.startswith(f"{name}/")
        if asked and (golden.folder / module.FILE).is_file():
            yield from (verdict for verdict in module.verdicts(system, golden) if verdict.name.startswith(only))


def arrays(golden: Golden, system: str, names: list[str]) -> Iterator[Verdict]:
    """A verdict for each of `names`; one that no group computes fails."""
    left = set(names)
    for group, compute in GROUPS[system].items():
        asked = [name for name in names if re.split("/|__", name)[0] == group]
        if not asked:
            continue
        for name, value in compute(golden, asked):
            if name in left:
                left.discard(name)
                yield compare(golden, name, np.asarray(value.detach()))
    for name in sorted(left):
        yield Verdict(f"{name}: no such array is computed here", float("inf"), 0.0)


def main(folder: Path, only: str = "") -> int:
    """Prints name, largest difference, tolerance and verdict of each array; returns how many failed."""
    if glip.is_glip(folder):
        return glip.main(folder, only)
    golden = Golden.read(folder)
    system, passed, failures = system_of(golden), 0, 0
    names = [name for name in golden.names() if name.startswith(only)]
    for verdict in chain(files(golden, system, only), arrays(golden, system, names)):
        passed += verdict.good
        failures += not verdict.good
        print(
            f"{verdict.name:70} {verdict.difference:10.2e} {verdict.tolerance:10.2e} "
            f"{'ok' if verdict.good else 'FAILED'}",
            flush=True,
        )
    print(f"{passed} passed, {failures} failed")
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds manifest.json, inputs.json, outputs.npz; or GLIP's files")
    parser.add_argument("--only", default="", help="compare only names that start with this, for example pretrain/")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    sys.exit(1 if main(arguments.folder, arguments.only) else 0)
