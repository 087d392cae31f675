"""Communication between processes; every function does nothing, or the obvious, without an initialised group."""

import os
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from wordregion.errors import UsageError


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def main_process() -> bool:
    """Whether this process prints and writes."""
    return rank() == 0


def device() -> torch.device:
    """Where this process computes: its own GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def init_from_env() -> None:
    """Joins the group that `torchrun` describes in the environment, if there is one.

    Raises:
        UsageError: if the environment describes it badly.
    """
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        try:
            if torch.cuda.is_available():
                torch.cuda.set_device(device())
            # Counts and flags are exchanged on the CPU, beside the gradients.
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except (ValueError, OverflowError, dist.DistNetworkError) as error:
            raise UsageError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set, but the processes can't meet ({error}). Was this "
                "started without torchrun? Unset WORLD_SIZE, or use: torchrun -m wordregion.cli ..."
            ) from error


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        dist.barrier()


def gather_no_grad(tensor: Tensor) -> Tensor:
    """Rows of all ranks, in rank order; the same shape on every rank."""
    if world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather(tensor: Tensor) -> Tensor:
    """Rows of all ranks, in rank order, with gradient: each rank's rows get what all ranks' losses owe to them."""
    return _Gather.apply(tensor) if world_size() > 1 else tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        context.rows = len(tensor)
        return gather_no_grad(tensor)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        own = rank() * context.rows
        return all_reduce_sum(gradient)[own : own + context.rows]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, as a new tensor without gradient."""
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total
