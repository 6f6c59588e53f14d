"""Boxes from the distances that a location predicts (FCOS, sec. 3.1, eq. 1); `layers.assign_targets` encodes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class BoxCoder:
    """Conventions of a detector for distances and boxes.

    Attributes:
        normalized: the network predicts distances in strides, behind a ReLU; False: logarithms of distances in pixels.
        continuous: a box is x2 - x1 wide; False: x2 - x1 + 1, because it covers the pixels x1 to x2.
    """

    normalized: bool = False
    continuous: bool = False

    def distances(self, predicted: Tensor, stride: int) -> Tensor:
        """Turn the network's output for a level of `stride` into distances in pixels, of any shape."""
        return F.relu(predicted) * stride if self.normalized else predicted.exp()

    def decode(self, locations: Tensor, distances: Tensor) -> Tensor:
        """Return boxes (..., 4) "xyxy" from locations (..., 2) and distances (left, top, right, bottom) (..., 4)."""
        x, y = locations.unbind(-1)
        left, top, right, bottom = distances.unbind(-1)
        return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)

    def clip(self, boxes: Tensor, clip_max: Tensor) -> Tensor:
        """Clip boxes (N, K, 4) to 0 .. `clip_max` (N, 4) of their image."""
        return torch.minimum(boxes.clamp(min=0), clip_max[:, None])

    def clip_max(self, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Return (N, 4) float32 on the CPU: the largest (x, y, x, y) of a box on images of (height, width)."""
        last = 0 if self.continuous else 1
        return torch.tensor([[width - last, height - last] * 2 for height, width in image_sizes], dtype=torch.float32)

    def has_area(self, boxes: Tensor) -> Tensor:
        """Return (...) bool, True for boxes (..., 4) that have a width and a height."""
        x1, y1, x2, y2 = boxes.unbind(-1)
        least = 0 if self.continuous else -1
        return (x2 - x1 > least) & (y2 - y1 > least)

    def for_nms(self, boxes: Tensor) -> Tensor:
        """Return boxes (..., 4) for `nms_mask`, which counts pixels inclusively: their IoU is that of `boxes`."""
        return torch.cat([boxes[..., :2], boxes[..., 2:] - 1], dim=-1) if self.continuous else boxes
