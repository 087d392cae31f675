"""AdamW with parameter groups; its state by name; clipping over shards."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from wordregion.distributed import comm
from wordregion.errors import UsageError
from wordregion.recipes.recipe import AdamW


def freeze(model: nn.Module, settings: AdamW) -> None:
    """Takes the parameters that the recipe names out of training.

    Raises:
        UsageError: if a prefix fits no parameter.
    """
    for prefix in settings.freeze:
        named = [parameter for name, parameter in model.named_parameters() if name.startswith(prefix)]
        if not named:
            raise UsageError(f"optim: freeze names {prefix!r}, but no parameter starts so. Look at named_parameters().")
        for parameter in named:
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, optim: AdamW) -> list[dict]:
    """Trainable parameters by weight decay and learning rate scale, in a stable order.

    A vector of more than one number (bias, norm) is not decayed; everything else is, like in ALBEF, whose grouping
    leaves out ``ndim == 1`` and so reaches the temperature, the class token and the position embeddings; see
    `AdamW.no_decay` and `AdamW.decay_vectors`.

    Raises:
        UsageError: if a prefix in `lr_scale` fits no parameter, or nothing is trainable.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unused = {prefix for prefix, _ in optim.lr_scale}
    for name, parameter in model.named_parameters():
        scale = 1.0
        for prefix, factor in optim.lr_scale:
            if name.startswith(prefix):
                scale = factor
                unused.discard(prefix)
                break
        if not parameter.requires_grad:
            continue
        scale *= optim.bias_scale if "bias" in name else 1.0
        vector = parameter.ndim == 1 and parameter.numel() > 1 and not optim.decay_vectors
        decay = 0.0 if vector or any(part in name for part in optim.no_decay) else optim.weight_decay
        groups.setdefault((decay, scale), []).append(parameter)
    if unused:
        raise UsageError(
            f"lr_scale: no parameter starts with {', '.join(sorted(unused))}. Look at model.named_parameters()."
        )
    if not groups:
        raise UsageError("the model has no trainable parameter. Unfreeze a part of it in the recipe.")
    return [{"params": group, "weight_decay": decay, "lr_scale": scale} for (decay, scale), group in groups.items()]


def build(model: nn.Module, optim: AdamW) -> torch.optim.AdamW:
    """AdamW in one fused kernel over the parameters of `model` (its shards, if it is sharded)."""
    return torch.optim.AdamW(parameter_groups(model, optim), lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets `lr` times each group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def moments(optimiser: torch.optim.AdamW, named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """The optimiser's tensors by name of parameter, sharded like it; made now where no step was taken yet.

    A parameter that never gets a gradient keeps its zeros, which change nothing.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        state = optimiser.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        tensors |= {f"{name}/{key}": value for key, value in state.items()}
    return tensors


@torch.no_grad()
def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scales all gradients so that their joint norm, over the shards of all ranks, is at most `limit`.

    Returns:
        The norm before clipping.
    """
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    local = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]
    total = torch.stack(torch._foreach_norm(local)).square().sum()
    if any(isinstance(grad, DTensor) for grad in grads):
        total = comm.all_reduce_sum(total)
    norm = total.sqrt()
    torch._foreach_mul_(local, (limit / (norm + 1e-6)).clamp(max=1))
    return float(norm)
