"""What follows a convolution: bias, shortcut and rectifier in one pass."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos_core.layers import _operators
from fcos_core.layers._reference import add_relu_reference_

__all__ = ["add_relu_", "add_relu_reference_"]


def add_relu_(x: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool) -> Tensor:
    """x (N, C, H, W), without a gradient, plus `bias` (C,) and `shortcut` of its shape, rectified if `relu`; in place.

    On CUDA one kernel reads and writes a channels-last x once.
    """
    if _has_kernel(x):
        torch.ops.fcos_core.add_relu_(x, bias, shortcut, relu)
        return x
    if bias is not None:
        x += bias[:, None, None]
    if shortcut is not None:
        x += shortcut
    return F.relu_(x) if relu else x


def _has_kernel(x: Tensor) -> bool:
    return (
        x.is_cuda
        and x.numel() < 2**31
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.data_ptr() % 16 == 0
        and _operators.has_kernel("add_relu_", "CUDA")
    )
