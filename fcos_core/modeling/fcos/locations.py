"""Where on the image each cell of a feature map stands."""

from collections.abc import Sequence

import torch
from torch import Tensor


def compute_locations(features: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Locations of every level (FCOS, sec. 3.1).

    Args:
        features: levels (N, C, H_l, W_l), for their size, dtype and device; half types give float32, which
            holds coordinates and areas that they do not.
        strides: pixels a cell of each level.

    Returns:
        Per level (H_l * W_l, 2), row by row: (x * stride + stride // 2, y * stride + stride // 2) in pixels.
    """
    return [_level_locations(feature, stride) for feature, stride in zip(features, strides, strict=True)]


def _level_locations(feature: Tensor, stride: int) -> Tensor:
    height, width = feature.shape[-2:]
    dtype = torch.promote_types(feature.dtype, torch.float32)
    ys, xs = (
        torch.arange(0, side * stride, stride, dtype=dtype, device=feature.device) + stride // 2
        for side in (height, width)
    )
    ys, xs = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([xs.reshape(-1), ys.reshape(-1)], dim=1)
