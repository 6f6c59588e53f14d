"""IoU loss of distances to the four sides of a box."""

import torch
from torch import Tensor, nn


class IOULoss(nn.Module):
    """IoU loss, -log((intersection + 1) / (union + 1)), of boxes that share a location (UnitBox, sec. 3.1)."""

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the scalar sum(loss * weight) / sum(weight), 0 without pairs.

        `pred`, `target` are (N, 4) distances (left, top, right, bottom) in pixels, positive. All pairs weigh the same
        if `weight` (N,) is None or all zeros.
        """
        losses = iou_losses(pred, target)
        if losses.numel() == 0:
            return losses.sum()
        if weight is None or weight.sum() <= 0:
            return losses.mean()
        return (losses * weight).sum() / weight.sum()


def iou_losses(pred: Tensor, target: Tensor) -> Tensor:
    """Return the (N,) losses of `IOULoss` before the mean."""
    intersection = _area(torch.minimum(pred, target))
    union = _area(pred) + _area(target) - intersection
    return ((union + 1) / (intersection + 1)).log()


def _area(sides: Tensor) -> Tensor:
    left, top, right, bottom = sides.unbind(-1)
    return (left + right) * (top + bottom)
