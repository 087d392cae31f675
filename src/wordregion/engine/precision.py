"""In which numbers a device computes."""

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether the device is worth using bfloat16 on: GPUs, and CPUs with AVX-512, AMX or ARM's instructions for it. On
    others torch goes through the numbers one by one, hundreds of times slower than in float32.
    """
    return device.type != "cpu" or (
        torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # torch's kernels ask this
    )
