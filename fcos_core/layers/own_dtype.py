"""Layers that read and write the dtype of their input, where autocast would have float32 on CUDA.

In bfloat16 or float16 their outputs, and whatever is added to those, are kept for the backward pass in half the memory.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """Within it operators on x's device compute in the dtypes that they are given."""
    # There is no autocast for tensors without data.
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def upsample(x: Tensor, scale_factor: int, mode: str) -> Tensor:
    """x (N, C, H, W) at `scale_factor` times its size, interpolated "nearest" or "bilinear" (align_corners false)."""
    with without_autocast(x):
        return F.interpolate(x, scale_factor=scale_factor, mode=mode)


class Upsample(nn.Module):
    """`upsample` as a layer."""

    def __init__(self, scale_factor: int, mode: str) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.scale_factor, self.mode)

    def extra_repr(self) -> str:
        return f"scale_factor={self.scale_factor}, mode={self.mode!r}"


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`; of half inputs the statistics are summed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            # The CUDA kernel takes all three in one dtype.
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
