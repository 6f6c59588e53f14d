"""Greedy non-maximum suppression of boxes."""

import torch
from torch import Tensor

from fcos_core.layers import _operators  # noqa: F401  registers torch.ops.fcos_core
from fcos_core.layers._reference import nms_mask_reference

__all__ = ["batched_nms", "nms", "nms_mask", "nms_mask_reference"]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that non-maximum suppression keeps, best first.

    Boxes are visited by decreasing score, equal scores by increasing index; a kept box suppresses every later
    one whose IoU with it is strictly greater than `iou_threshold`. The corner pixels belong to a box: its width
    is `x2 - x1 + 1`.

    Args:
        boxes: (N, 4) floating point, xyxy in pixels; half types are compared in float32. N may be 0.
        scores: (N,) floating point. A NaN counts as the highest score, -inf marks an empty slot.
        iou_threshold: 0 or greater.

    Returns:
        (K,) int64 indices into boxes, by decreasing score, equal scores by increasing index.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or the threshold is negative or NaN.
    """
    groups = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return batched_nms(boxes, scores, groups, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """`nms` in each group of boxes on its own; the indices kept in all of them together, best first.

    The boxes are compared as they are: shifting groups apart, the common shortcut, costs float32 digits.

    Args:
        boxes: (N, 4) floating point, xyxy in pixels; half types are compared in float32. N may be 0.
        scores: (N,) floating point. A NaN counts as the highest score, -inf marks an empty slot.
        groups: (N,) int64, any numbers: the class, or image * classes + class for a batch.
        iou_threshold: 0 or greater.

    Returns:
        (K,) int64 indices into boxes, by decreasing score, equal scores by increasing index.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or the threshold is negative or NaN.
    """
    keep = nms_mask(boxes, scores, groups, iou_threshold)
    order = torch.argsort(scores.detach(), descending=True, stable=True)
    return order[keep[order]]


def nms_mask(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes `batched_nms` keeps: a result of fixed size, so that nothing waits for the device.

    Args:
        boxes: (N, 4) floating point, xyxy in pixels; half types are compared in float32. N may be 0.
        scores: (N,) floating point. A NaN counts as the highest score; -inf marks an empty slot, which is not kept
            and suppresses nothing.
        groups: (N,) int64, any numbers: the class, or image * classes + class for a batch.
        iou_threshold: 0 or greater.

    Returns:
        (N,) bool, True where the box is kept.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or the threshold is negative or NaN.
    """
    # suppression is no function to differentiate; without detach autograd would still watch the operator
    boxes, scores = boxes.detach(), scores.detach()
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()
    return torch.ops.fcos_core.nms_mask(boxes, scores, groups, iou_threshold)
