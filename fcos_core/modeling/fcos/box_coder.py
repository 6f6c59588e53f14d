"""Boxes from a location's distances to their sides (FCOS, sec. 3.1, eq. 1); `layers.assign_targets` encodes them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def decode_boxes(locations: Tensor, distances: Tensor) -> Tensor:
    """Return boxes (..., 4) "xyxy" from locations (..., 2) and distances (left, top, right, bottom) (..., 4)."""
    x, y = locations.unbind(-1)
    left, top, right, bottom = distances.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)


def clip_boxes(boxes: Tensor, clip_max: Tensor) -> Tensor:
    """Clip boxes (N, K, 4) to 0 .. `clip_max` (N, 4) of their image."""
    return torch.minimum(boxes.clamp(min=0), clip_max[:, None])


def make_clip_max(image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return (N, 4) float32 on the CPU: the last pixel (x, y, x, y) of images of (height, width)."""
    return torch.tensor([[width - 1, height - 1] * 2 for height, width in image_sizes], dtype=torch.float32)
