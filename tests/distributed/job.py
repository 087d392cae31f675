"""Training runs for the tests; also a program that runs a list of them in one of several processes.

python -m tests.distributed.job JOBS.json     with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set
"""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.distributed.fixed import Neighbour, without_dropout
from tests.distributed.other_recipes import other_recipe
from wordregion.data.collate import Collator
from wordregion.data.loader import StepLoader
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.data.transforms import TrainTransform
from wordregion.distributed import comm
from wordregion.distributed.parallelize import full_state, gathered
from wordregion.engine.trainer import TrainResult, train
from wordregion.models.zoo import albef_tiny
from wordregion.objectives import Contrast, MaskedWords, Match
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.tasks.align import Align, AlignTask

PIXELS = 32


def tiny_recipe(
    fixed: int | None = None, objectives: str = "all", size: int = 50, teacher: bool = True, **run: Any
) -> Recipe:
    """ALBEF of 0.1 M parameters on small scenes.

    Args:
        fixed: with a number of texts: no dropout and `Neighbour` negatives in blocks of so many.
        objectives: "all" or "masked".
        size: scenes; 50 of them at batch 8 put step 5 and step 10 in the middle of an epoch.
        teacher: otherwise the contrast's keys are the student's own, of all processes, with gradient, and what
            fuses is trained in every second step.
        run: fields of `Run`.
    """
    tokenizer = Tokenizer("scenes", max_tokens=16)
    build = partial(
        albef_tiny, tokenizer.vocab_size, PIXELS, width=64, vision_layers=2, text_layers=1, fusion_layers=1, embed=16
    )
    match = Match() if fixed is None else Match(draw=Neighbour(fixed))
    chosen = (Contrast(), match, MaskedWords()) if objectives == "all" else (MaskedWords(),)
    settings: dict[str, Any] = {"steps": 10, "batch": 8, "log_every": 1, "save_every": 5, "workers": 0, "clip": 1.0}
    return Recipe(
        name="tiny",
        model=build if fixed is None else partial(without_dropout, build),
        task=Align(objectives=chosen, queue_size=20, ramp_steps=5, momentum=0.9)
        if teacher
        else Align(objectives=chosen, queue_size=0, distill=0.0, momentum=None, fuse_every=2),
        data=Data(
            train=partial(Scenes, "train", size, image_size=PIXELS),
            transform=TrainTransform(PIXELS),
            collator=partial(Collator, tokenizer, Masking()),
        ),
        optim=AdamW(lr=1e-3, warmup=3),
        run=Run(**(settings | run)),
    )


def state_of(result: TrainResult) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in full_state(result.task).items()}


def run_job(
    out: str, kill_after: int | None = None, resume: bool = False, evaluate: bool = False, **recipe: Any
) -> None:
    """Trains, and leaves the task's whole state in OUT/state.pt.

    Args:
        out: folder of the run.
        kill_after: the process kills itself in the middle of the work after so many steps.
        resume: continue the run in `out`.
        evaluate: after it, ranks run different forwards within `gathered`, then train one step more.
        recipe: arguments of `other_recipe` with a kind, or of `tiny_recipe`.

    Returns:
        The exit status that a command would give.
    """
    after_step = AlignTask.after_step

    def deadly(task: AlignTask) -> None:
        after_step(task)
        if int(task.step) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill_after is not None:
        AlignTask.after_step = deadly  # type: ignore[method-assign]
    settings = other_recipe(**recipe) if "kind" in recipe else tiny_recipe(**recipe)
    result = train(settings, Path(out), resume=resume)
    state = state_of(result)
    if evaluate:
        uneven_evaluation(result.task)
    if comm.main_process():
        torch.save(state, Path(out) / "state.pt")
    return 0 if result.signal is None else 128 + result.signal


def uneven_evaluation(task: Any) -> None:
    """Rank r encodes r + 1 times; then a backward pass must still work, with all ranks in step."""
    image = torch.zeros(2, 3, PIXELS, PIXELS)
    with gathered(task), torch.no_grad():
        for _ in range(comm.rank() + 1):
            whole = task.model.project_image(task.model.encode_image(image))
    seen = comm.gather_no_grad(whole)
    assert torch.equal(seen[:2], seen[2:])
    assert all(type(parameter).__name__ == "DTensor" for parameter in task.parameters())
    settings = tiny_recipe(fixed=4)
    items = settings.data.train()
    loader = StepLoader(items, settings.data.transform, settings.data.collator(), batch=4, seed=0)
    (batch,) = next(iter(loader))
    task(batch, task.counts(batch)).loss.backward()


def launch(jobs: list[dict[str, Any]], folder: Path, processes: int = 2) -> list[subprocess.Popen]:
    """Starts a group of processes that do these jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return start(["tests.distributed.job", str(folder / "jobs.json")], processes)


def start(module: list[str], processes: int = 2) -> list[subprocess.Popen]:
    """Starts a module, with its arguments, in every process of a group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(processes):
        group = {"RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {name: str(value) for name, value in group.items()}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *module],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    return started


def finish(started: list[subprocess.Popen], expect: int = 0) -> str:
    """Waits for a group; returns what it printed."""
    told = [process.communicate(timeout=240)[0] for process in started]
    codes = [process.returncode for process in started]
    assert codes == [expect] * len(codes), f"{codes}\n" + "\n".join(told)[-6000:]
    return "\n".join(told)


if __name__ == "__main__":
    torch.set_num_threads(1)
    status = [run_job(**job) for job in json.loads(Path(sys.argv[1]).read_text())][-1]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(status)
