"""One task on 1..N processes: alone, DistributedDataParallel, or FSDP2 (`fully_shard`)."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from wordregion.distributed import comm
from wordregion.errors import UsageError


class Parallel:
    """A task made ready to train; call it like the task.

    Names in ``task.state_dict()`` stay what they are in every mode.

    Args:
        task: on its device, the same values on all ranks; student and teacher are both in it.
        blocks: its units of sharding, compilation and activation checkpointing.
        mode: ``"none"``, ``"ddp"`` or ``"fsdp"``. With one process all are the same.
        compile: compile each block in place.
        checkpoint_activations: recompute trainable blocks in the backward pass.

    Raises:
        UsageError: for several processes with mode ``"none"``, or a scalar parameter with ``"fsdp"``.
    """

    def __init__(
        self,
        task: nn.Module,
        blocks: list[nn.Module],
        mode: str,
        compile: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        if mode == "none" and comm.world_size() > 1:
            raise UsageError(f"{comm.world_size()} processes but parallel='none'. Choose --parallel ddp or fsdp.")
        self.task = task
        self.mode = mode if comm.world_size() > 1 else "none"
        self._root: Callable[..., Any] = task
        if checkpoint_activations:
            for block in blocks:
                if any(parameter.requires_grad for parameter in block.parameters()):
                    _recompute(block)
        if compile:
            for block in blocks:
                block.compile()
        if self.mode == "ddp":
            warnings.filterwarnings(
                "ignore", message="`broadcast_buffers` is deprecated"
            )  # its heir is not in torch 2.9
            # Objectives decide which parts of a model take part; buffers (the queue) are equal on all ranks already.
            self._root = DistributedDataParallel(
                task, find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        elif self.mode == "fsdp":
            if scalars := [name for name, parameter in task.named_parameters() if parameter.ndim == 0]:
                raise UsageError(f"fsdp cannot shard the scalar {scalars[0]}. Give it the shape (1,), or use ddp.")
            for parameter in task.parameters():
                parameter.data = parameter.data.contiguous()  # FSDP cannot shard what lies channels last (CNNs)
            mesh = init_device_mesh(next(task.parameters()).device.type, (comm.world_size(),))
            for block in blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(task, mesh=mesh)

    def __call__(self, *args: Any) -> Any:
        """The task's forward."""
        return self._root(*args)

    def reduce_gradients(self, last: bool) -> None:
        """Whether the next backward is the step's last one, and so averages gradients over the ranks."""
        if isinstance(self._root, DistributedDataParallel):
            self._root.require_backward_grad_sync = last
        elif isinstance(self.task, FSDPModule):
            self.task.set_requires_gradient_sync(last)
            self.task.set_is_last_backward(last)


@contextmanager
def gathered(task: nn.Module) -> Iterator[None]:
    """Within, every rank holds all parameters and may run any part of the task on its own, any number of times.

    For evaluation without gradients. Nothing to do for a task that is not sharded.
    """
    shards = [module for module in task.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.set_reshard_after_forward(shard is not task, recurse=False)
        if isinstance(task, FSDPModule):
            # Ranks ran different forwards: forget their order, or the next backward would prefetch differently.
            task.reset_iter_state()
        for shard in shards:
            shard.reshard()


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """All of a module's state on the CPU, gathered from its shards; call it on all ranks."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return {name: _whole(value).cpu() for name, value in module.state_dict().items()}


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value.detach()


def _recompute(block: nn.Module) -> None:
    forward = block.forward

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    block.forward = recomputed
