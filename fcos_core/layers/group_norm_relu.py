"""Group normalization and the rectifier after it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers import _operators
from fcos_core.layers._reference import group_norm_relu_reference

__all__ = ["group_norm_relu", "group_norm_relu_reference"]


def group_norm_relu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """`relu(norm(x))` for x (N, C, H, W).

    On CUDA PyTorch's own kernels copy a channels-last map to NCHW, from which the next convolution copies it back;
    the operator of this package stays channels-last, and keeps x alone for the backward pass. Of half inputs it rounds
    the output alone; PyTorch's kernels round `weight` and `bias` too.
    """
    if _has_kernel(x, norm):
        return torch.ops.fcos_core.group_norm_relu(x, norm.weight, norm.bias, norm.num_groups, norm.eps)[0]
    return F.relu_(norm(x))


def _has_kernel(x: Tensor, norm: nn.GroupNorm) -> bool:
    # A compiler fuses the separate operators itself.
    if not x.is_cuda or torch.compiler.is_compiling() or not _operators.has_kernel("group_norm_relu", "CUDA"):
        return False
    if not norm.affine:
        return False
    pixel_bytes = x.shape[1] * x.element_size()
    return (
        x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and pixel_bytes % 16 == 0
        and pixel_bytes <= 4096
        and x.shape[1] // norm.num_groups <= 256
        and norm.weight.dtype == torch.promote_types(x.dtype, torch.float32)
    )
