"""The momentum teacher: an exponential moving average of the student (ALBEF section 3.3)."""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def make_teacher(student: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode. Copied before any sharding, so it can be sharded like the student."""
    return copy.deepcopy(student).requires_grad_(False).eval()


def distill_weight(final: float, ramp_steps: int, step: Tensor) -> float:
    """Alpha at this step: linear from 0 to `final` over `ramp_steps`, then constant (ALBEF's code)."""
    return final * (min(1.0, int(step) / ramp_steps) if ramp_steps else 1.0)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``teacher = momentum * teacher + (1 - momentum) * student``, in place, on each rank's own shards.

    Args:
        teacher: updated.
        student: of the same architecture and sharding.
        momentum: in [0, 1].
    """
    for part in (*teacher.modules(), *student.modules()):
        if isinstance(part, FSDPModule):  # FSDP2 keeps root parameters gathered after a forward
            part.reshard()
    ours = [_local(p) for p in teacher.parameters()]
    theirs = [_local(p) for p in student.parameters()]
    torch._foreach_lerp_(ours, theirs, 1 - momentum)


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.data
