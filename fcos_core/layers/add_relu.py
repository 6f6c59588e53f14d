"""Bias, shortcut and ReLU after a convolution, in one pass over memory."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos_core.layers._operators import define, has_kernel


def add_relu_(x: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool) -> Tensor:
    """Add `bias` (C,) and `shortcut` (N, C, H, W) to x, apply ReLU if `relu`, in place without a gradient; return x.

    On CUDA one kernel reads and writes a channels-last x once. Raise RuntimeError unless x is floating point and
    `bias` and `shortcut`, if given, are of its dtype and device.
    """
    _check(x, bias, shortcut)
    if _fits_kernel(x):
        torch.ops.fcos_core.add_relu_(x, bias, shortcut, relu)
        return x
    if bias is not None:
        x += bias[:, None, None]
    if shortcut is not None:
        x += shortcut
    return F.relu_(x) if relu else x


def _fits_kernel(x: Tensor) -> bool:
    return (
        x.is_cuda
        and x.numel() < 2**31
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.data_ptr() % 16 == 0
        and has_kernel("add_relu_", "CUDA")
    )


def _check(x: Tensor, bias: Tensor | None, shortcut: Tensor | None) -> None:
    if x.dim() != 4 or not x.is_floating_point():
        raise RuntimeError(
            f"add_relu_: x must be floating point of shape (N, C, H, W), it is {x.dtype} of {list(x.shape)}."
        )
    for name, shape, value in (("bias", x.shape[1:2], bias), ("shortcut", x.shape, shortcut)):
        if value is not None and (value.shape != shape or value.dtype != x.dtype or value.device != x.device):
            raise RuntimeError(f"add_relu_: {name} must be of x's dtype and device, and of shape {list(shape)}.")


def add_relu_reference_(x: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool) -> None:
    """Compute `add_relu_` in plain PyTorch; half types are added in float32 and rounded once."""
    _check(x, bias, shortcut)
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        values = values + bias[:, None, None]
    if shortcut is not None:
        values = values + shortcut
    x.copy_(values.relu() if relu else values)


def _fake(x: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool) -> None:
    return None


define(
    "add_relu_",
    "(Tensor(a!) x, Tensor? bias, Tensor? shortcut, bool relu) -> ()",
    add_relu_reference_,
    _fake,
    cpu_kernel=False,
)
