"""Locations: the cells of all feature maps in order, and their positions on the image."""

from collections.abc import Sequence

import torch
from torch import Tensor


def compute_locations(features: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Return `level_locations` (H_l * W_l, 2) of every level (N, C, H_l, W_l) of `features` (FCOS, sec. 3.1)."""
    return [
        level_locations(feature.shape[-2:], stride, feature.dtype, feature.device)
        for feature, stride in zip(features, strides, strict=True)
    ]


def level_locations(
    size: Sequence[int],
    stride: int,
    dtype: torch.dtype,
    device: torch.device,
    corners_of: Sequence[int] | None = None,
) -> Tensor:
    """Return the position (x * stride + stride // 2, y * stride + stride // 2) in pixels of each cell (x, y).

    If `corners_of` is the (height, width) of the padded images, return the position (x * (width // W),
    y * (height // H)), as torchvision's FCOS has it. The result is (H * W, 2), row by row, for a level of `size`
    (H, W). Half types give float32, because they cannot hold coordinates and areas exactly.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    if corners_of is None:
        steps, first = [stride, stride], stride // 2
    else:
        steps, first = [padded // side for padded, side in zip(corners_of, size, strict=True)], 0
    ys, xs = (
        torch.arange(0, side * step, step, dtype=dtype, device=device) + first
        for side, step in zip(size, steps, strict=True)
    )
    ys, xs = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([xs.reshape(-1), ys.reshape(-1)], dim=1)


def by_location(levels: Sequence[Tensor]) -> Tensor:
    """Return levels (N, C, H_l, W_l) as (N, L, C), finest level first, row by row: the order of channels-last."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)
