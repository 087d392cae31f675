"""Attention by the kernels that are fastest where it runs.

Shape letters: P sequences, H heads, L queries, S keys, K head width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def attend(
    q: Float[Tensor, "P H L K"],
    k: Float[Tensor, "P H S K"],
    v: Float[Tensor, "P H S K"],
    mask: Bool[Tensor, "#P 1 #L S"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "P H L K"]:
    """Scaled dot-product attention by torch's fused kernel, or by plain operations where half precision is trained on a
    CPU: the kernel's backward pass takes several times as long there for short texts (`benchmarks/attention.py`).

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: True where a query may look, somewhere in each row; None = everywhere.
        dropout: rate in [0, 1) on the weights.
    """
    trained = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    half = torch.is_autocast_enabled("cpu") or q.dtype in (torch.bfloat16, torch.float16)
    if not (trained and half and q.device.type == "cpu"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(v.dtype), dropout)
    return weights @ v
