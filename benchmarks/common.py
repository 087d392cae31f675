"""What the benchmarks share: rates, counted operations, processes that take turns."""

import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def matmul_rate(dtype: torch.dtype = torch.float32, size: int = 2048, repeats: int = 5) -> float:
    """GFLOP/s of a square matrix product, median."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    a @ b
    return 2 * size**3 / statistics.median(timed(lambda: a @ b)["wall"] for _ in range(repeats)) / 1e9


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Wall and CPU seconds of one call."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall": wall,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "faults": after.ru_minflt - before.ru_minflt,
    }


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far, in 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _attention(query: Any, key: Any, *_: Any, **__: Any) -> int:
    b, h, length, width = query
    return 4 * b * h * length * key[-2] * width


def _attention_backward(_: Any, query: Any, key: Any, *__: Any, **___: Any) -> int:
    return 2 * _attention(query, key)


def counted_flops(work: Callable[[], Any]) -> int:
    """Multiplications and additions of every matrix product, convolution and attention in `work`.

    Fused attention counts two products forward and four backward (what it recomputes is left out); element-wise
    operations, softmax and normalisation count nothing.
    """
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    with FlopCounterMode(
        display=False, custom_mapping={fused.default: _attention, backward.default: _attention_backward}
    ) as counter:
        work()
    return counter.get_total_flops()


class Turns:
    """Worker processes that do one unit of work when told, so that rivals meet the same state of the machine.

    Args:
        target: ``target(name, settings)`` builds the work in the worker and returns functions by command.
        names: the rivals.
        settings: passed on.
    """

    def __init__(self, target: Callable[..., dict[str, Callable[[], Any]]], names: list[str], settings: Any) -> None:
        context = get_context("spawn")
        self.ends: dict[str, Connection] = {}
        self.workers = []
        for name in names:
            self.ends[name], theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(theirs, target, name, settings), daemon=True)
            worker.start()
            self.workers.append(worker)
            self.ends[name].recv()

    def __call__(self, name: str, command: str) -> Any:
        self.ends[name].send(command)
        return self.ends[name].recv()

    def close(self) -> None:
        for end in self.ends.values():
            end.send(None)
        for worker in self.workers:
            worker.join()


def _serve(end: Connection, target: Any, name: str, settings: Any) -> None:
    commands = target(name, settings)
    end.send("ready")
    while (command := end.recv()) is not None:
        end.send(commands[command]())
