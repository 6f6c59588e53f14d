"""Greedy non-maximum suppression of boxes."""

import torch
from torch import Tensor

from fcos_core.layers._operators import define


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return (K,) int64 indices of the boxes that non-maximum suppression keeps, best first; see `nms_mask`."""
    groups = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return batched_nms(boxes, scores, groups, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Return (K,) int64 indices of the boxes that `nms_mask` keeps, by decreasing score, equal scores by index."""
    keep = nms_mask(boxes, scores, groups, iou_threshold)
    order = torch.argsort(scores.detach(), descending=True, stable=True)
    return order[keep[order]]


def nms_mask(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Return (N,) bool, True for the boxes that non-maximum suppression keeps in each group.

    The boxes of a group are visited by decreasing score, equal scores by increasing index. A kept box suppresses every
    later box whose IoU with it is strictly greater than `iou_threshold`. The corner pixels belong to a box: its width
    is `x2 - x1 + 1`. Groups are not shifted apart, a common shortcut that loses float32 digits. The result has a fixed
    size, so the host does not wait for the device.

    Args:
        boxes: (N, 4) floating point, xyxy in pixels; half types are compared in float32. N may be 0.
        scores: (N,) floating point. NaN counts as the highest score. -inf marks an empty slot, which is not kept
            and suppresses nothing.
        groups: (N,) int64, any numbers: the class, or image * classes + class for a batch.
        iou_threshold: 0 or greater.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or the threshold is negative or NaN.
    """
    # The mask has no gradient. Without detach, autograd would still record the operator.
    boxes, scores = boxes.detach(), scores.detach()
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()
    _check(boxes, scores, groups, iou_threshold)
    return torch.ops.fcos_core.nms_mask(boxes, scores, groups, iou_threshold)


def _check(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> None:
    if boxes.dim() != 2 or boxes.size(1) != 4:
        raise RuntimeError(f"nms_mask: boxes must have shape (N, 4), they have {list(boxes.shape)}.")
    if boxes.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f"nms_mask: boxes must be float32 or float64, they are {boxes.dtype}.")
    if not scores.is_floating_point():
        raise RuntimeError(f"nms_mask: scores must be floating point, they are {scores.dtype}.")
    if groups.dtype != torch.int64:
        raise RuntimeError(f"nms_mask: groups must be int64, they are {groups.dtype}.")
    for name, values in (("scores", scores), ("groups", groups)):
        if values.shape != boxes.shape[:1]:
            raise RuntimeError(
                f"nms_mask: {name} must have shape ({len(boxes)},), one per box, they have {list(values.shape)}."
            )
    if not boxes.device == scores.device == groups.device:
        raise RuntimeError(
            "nms_mask: boxes, scores and groups must be on one device, they are on "
            f"{boxes.device}, {scores.device} and {groups.device}."
        )
    if not iou_threshold >= 0:
        raise RuntimeError(f"nms_mask: iou_threshold must be 0 or greater, it is {iou_threshold}.")


def nms_mask_reference(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Compute `nms_mask` in plain PyTorch, for boxes of float32 or float64.

    A box with a NaN coordinate neither suppresses nor is suppressed.
    """
    _check(boxes, scores, groups, iou_threshold)
    by_score = torch.argsort(scores, dim=0, descending=True, stable=True)
    order = by_score[torch.argsort(groups[by_score], dim=0, stable=True)]
    order = order[scores[order] != -torch.inf]
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].tolist()
    for segment in order.split(sizes):
        keep[segment] = _keep_in_order(boxes[segment], iou_threshold)
    return keep


def _keep_in_order(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Return the mask (M,) of the kept boxes among one group's boxes (M, 4), best first."""
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    for i in range(len(boxes) - 1):
        if not keep[i]:
            continue
        rest = slice(i + 1, None)
        corner_min = torch.maximum(boxes[i, :2], boxes[rest, :2])
        corner_max = torch.minimum(boxes[i, 2:], boxes[rest, 2:])
        width, height = (corner_max - corner_min + 1).clamp(min=0).unbind(1)
        intersection = width * height
        iou = intersection / (areas[i] + areas[rest] - intersection)
        keep[rest] &= ~(iou > iou_threshold)  # the negated comparison keeps a box whose IoU is NaN
    return keep


def _fake(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(boxes.size(0), dtype=torch.bool)


define(
    "nms_mask", "(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold) -> Tensor", nms_mask_reference, _fake
)
