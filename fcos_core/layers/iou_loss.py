"""IoU loss of distances to the four sides of a box."""

import torch
from torch import Tensor, nn

LOSS_TYPES = ("iou", "linear_iou", "giou", "diou", "ciou")
_LEAST_DISTANCE = 1e-7  # keeps the gradient of boxes without a width or a height finite


class IOULoss(nn.Module):
    """Loss of the IoU of boxes that share a location, see `ious`.

    Args:
        loss_type: "iou": -log(IoU) (UnitBox, sec. 3.1). "linear_iou": 1 - IoU. "giou": 1 - IoU + the share of the
            smallest box around both that neither covers (Generalized IoU, sec. 3). "diou", "ciou": torchvision's
            `distance_box_iou_loss` and `complete_box_iou_loss`, whose IoU is intersection / union. In these two, the
            host waits for a CUDA device.

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
    if loss_type in ("diou", "ciou"):
        return _torchvision_losses(pred, target, loss_type)
    intersection, union = _intersection_and_union(pred, target)
    if loss_type == "iou":
        return ((union + 1) / (intersection + 1)).log()
    loss = 1 - (intersection + 1) / (union + 1)
    if loss_type == "linear_iou":
        return loss
    around = _area(torch.maximum(pred, target)) + 1e-7  # as published; keeps empty boxes from a division by 0
    return loss + (around - union) / around


def ious(pred: Tensor, target: Tensor) -> Tensor:
    """Return the (N,) IoUs, (intersection + 1) / (union + 1), of boxes whose distances are as in `IOULoss`."""
    intersection, union = _intersection_and_union(pred, target)
    return (intersection + 1) / (union + 1)


def _torchvision_losses(pred: Tensor, target: Tensor, loss_type: str) -> Tensor:
    from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss  # makes `import fcos_core` slow

    loss = distance_box_iou_loss if loss_type == "diou" else complete_box_iou_loss
    pred, target = pred.clamp(min=_LEAST_DISTANCE), target.clamp(min=_LEAST_DISTANCE)
    return loss(*(torch.cat([-sides[..., :2], sides[..., 2:]], dim=-1) for sides in (pred, target)))


def _intersection_and_union(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    intersection = _area(torch.minimum(pred, target))
    return intersection, _area(pred) + _area(target) - intersection


def _area(sides: Tensor) -> Tensor:
    left, top, right, bottom = sides.unbind(-1)
    return (left + right) * (top + bottom)
