"""IoU loss of distances to the four sides of a box."""

import torch
from torch import Tensor, nn

LOSS_TYPES = ("iou", "linear_iou", "giou")


class IOULoss(nn.Module):
    """Loss of the IoU, (intersection + 1) / (union + 1), of boxes that share a location.

    Args:
        loss_type: "iou": -log(IoU) (UnitBox, sec. 3.1). "linear_iou": 1 - IoU. "giou": 1 - IoU + the share of the
            smallest box around both that neither covers (Generalized IoU, sec. 3).

    Raises:
        ValueError: `loss_type` is none of these.
    """

    def __init__(self, loss_type: str = "iou") -> None:
        super().__init__()
        if loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}, not {loss_type!r}")
        self.loss_type = loss_type

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the scalar sum(loss * weight) / sum(weight), 0 without pairs.

        `pred`, `target` are (N, 4) distances (left, top, right, bottom) in pixels, positive. All pairs weigh the same
        if `weight` (N,) is None or all zeros.
        """
        losses = iou_losses(pred, target, self.loss_type)
        if losses.numel() == 0:
            return losses.sum()
        if weight is None or weight.sum() <= 0:
            return losses.mean()
        return (losses * weight).sum() / weight.sum()


def iou_losses(pred: Tensor, target: Tensor, loss_type: str = "iou") -> Tensor:
    """Return the (N,) losses of `IOULoss` before the mean."""
    intersection = _area(torch.minimum(pred, target))
    union = _area(pred) + _area(target) - intersection
    if loss_type == "iou":
        return ((union + 1) / (intersection + 1)).log()
    loss = 1 - (intersection + 1) / (union + 1)
    if loss_type == "linear_iou":
        return loss
    around = _area(torch.maximum(pred, target)) + 1e-7  # as published; keeps empty boxes from a division by 0
    return loss + (around - union) / around


def _area(sides: Tensor) -> Tensor:
    left, top, right, bottom = sides.unbind(-1)
    return (left + right) * (top + bottom)
