"""Layers whose output has the dtype of the input, although autocast would choose float32 on CUDA.

Their bfloat16 or float16 outputs take half the memory that float32 outputs would take until the backward pass.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which autocast on x's device is off."""
    # Autocast does not exist for the meta device.
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def upsample(x: Tensor, scale_factor: int, mode: str) -> Tensor:
    """Enlarge x (N, C, H, W) by `scale_factor`, with mode "nearest" or "bilinear" (align_corners false)."""
    with without_autocast(x):
        return F.interpolate(x, scale_factor=scale_factor, mode=mode)


class Upsample(nn.Upsample):
    """`nn.Upsample` that keeps the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            return super().forward(x)


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` that keeps the dtype of its input; statistics of half types are summed in float32.

    A group of one value becomes the bias, in a batch of one image as in any other batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            # PyTorch's CUDA kernel requires input, weight and bias of one dtype.
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            # F.group_norm refuses groups of one value, but only where the batch is one image.
            return torch.group_norm(x, self.num_groups, weight, bias, self.eps, torch.backends.cudnn.enabled)
