"""The operators of csrc/ in plain PyTorch: what they mean, and what runs where no kernel was compiled."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _check_nms_inputs(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> None:
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
    """Which boxes greedy non-maximum suppression keeps, each group on its own.

    In a group, boxes are visited by decreasing score, equal scores by increasing index. A box that is still
    kept suppresses every later one whose IoU with it is strictly greater than `iou_threshold`. The corner
    pixels belong to a box: its width is `x2 - x1 + 1`. A box with a NaN coordinate neither suppresses nor is
    suppressed; a NaN score counts as the highest.

    Args:
        boxes: (N, 4) float32 or float64, xyxy in pixels.
        scores: (N,) floating point.
        groups: (N,) int64, any numbers; only boxes of the same group suppress each other.
        iou_threshold: 0 or greater.

    Returns:
        (N,) bool in the order of the input, True where the box is kept.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or the threshold is negative or NaN.
    """
    _check_nms_inputs(boxes, scores, groups, iou_threshold)
    by_score = torch.argsort(scores, dim=0, descending=True, stable=True)
    order = by_score[torch.argsort(groups[by_score], dim=0, stable=True)]
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].tolist()
    for segment in order.split(sizes):
        keep[segment] = _keep_in_order(boxes[segment], iou_threshold)
    return keep


def _keep_in_order(boxes: Tensor, iou_threshold: float) -> Tensor:
    """(M,) bool: which of one group's boxes (M, 4), best first, are kept."""
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
        keep[rest] &= ~(iou > iou_threshold)  # written this way round, a NaN IoU keeps the box
    return keep


def _check_focal_loss_inputs(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> None:
    if logits.dim() != 2:
        raise RuntimeError(f"sigmoid_focal_loss: logits must have shape (N, C), they have {list(logits.shape)}.")
    if not logits.is_floating_point():
        raise RuntimeError(f"sigmoid_focal_loss: logits must be floating point, they are {logits.dtype}.")
    if targets.shape != logits.shape[:1]:
        raise RuntimeError(
            f"sigmoid_focal_loss: targets must have shape ({len(logits)},), one per row of logits, "
            f"they have {list(targets.shape)}."
        )
    if targets.dtype not in (torch.int32, torch.int64):
        raise RuntimeError(f"sigmoid_focal_loss: targets must be int32 or int64, they are {targets.dtype}.")
    if targets.device != logits.device:
        raise RuntimeError(
            "sigmoid_focal_loss: logits and targets must be on one device, they are on "
            f"{logits.device} and {targets.device}."
        )
    if not gamma >= 0:
        raise RuntimeError(f"sigmoid_focal_loss: gamma must be 0 or greater, it is {gamma}.")
    if not 0 <= alpha <= 1:
        raise RuntimeError(f"sigmoid_focal_loss: alpha must lie in [0, 1], it is {alpha}.")


def _logits_of_the_truth(logits: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each element's sign, its logit of being classified right, and its weight: three (N, C) tensors.

    sign: +1 positive, -1 negative, 0 ignored. weight: alpha positive, 1 - alpha negative, 0 ignored.
    Half types are raised to float32.
    """
    math_dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    columns = torch.arange(1, logits.size(1) + 1, dtype=targets.dtype, device=logits.device)
    positive = targets[:, None] == columns
    counted = (targets[:, None] >= 0).to(math_dtype)
    sign = torch.where(positive, 1.0, -1.0).to(math_dtype) * counted
    weight = torch.where(positive, alpha, 1 - alpha).to(math_dtype) * counted
    return sign, logits.to(math_dtype) * sign, weight


def sigmoid_focal_loss_reference(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """The focal loss of every class at every location, differentiable by autograd.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3.

    With p = sigmoid(logit): `alpha * (1 - p)**gamma * -log(p)` where the class is the target,
    `(1 - alpha) * p**gamma * -log(1 - p)` where it is not, 0 in a row whose target is negative.

    Args:
        logits: (N, C) float16, bfloat16, float32 or float64; half types are computed in float32.
        targets: (N,) int32 or int64. 0 is background; c in 1..C makes class c, column c - 1, the positive; a
            negative label is ignored. A label above C is no column's positive, as 0 is.
        gamma: focusing exponent, 0 or greater; 0 is weighted cross entropy.
        alpha: weight of the positives, in [0, 1].

    Returns:
        (N, C) losses of the dtype of logits.

    Raises:
        RuntimeError: a shape, dtype, device or number is not as above.
    """
    _check_focal_loss_inputs(logits, targets, gamma, alpha)
    _, truth, weight = _logits_of_the_truth(logits, targets, alpha)
    # a power of the probability as an exponential: at a probability of 0 its derivative stays finite
    modulation = torch.exp(gamma * F.logsigmoid(-truth))
    return (weight * modulation * -F.logsigmoid(truth)).to(logits.dtype)


def sigmoid_focal_loss_backward_reference(
    grad: Tensor, logits: Tensor, targets: Tensor, gamma: float, alpha: float
) -> Tensor:
    """The gradient of the losses with respect to logits, times `grad` (N, C): (N, C) of the dtype of logits."""
    _check_focal_loss_inputs(logits, targets, gamma, alpha)
    if (grad.shape, grad.dtype, grad.device) != (logits.shape, logits.dtype, logits.device):
        raise RuntimeError(
            "sigmoid_focal_loss_backward: grad must have the shape, dtype and device of logits, "
            f"{list(logits.shape)} {logits.dtype} on {logits.device}, "
            f"it has {list(grad.shape)} {grad.dtype} on {grad.device}."
        )
    sign, truth, weight = _logits_of_the_truth(logits, targets, alpha)
    modulation = torch.exp(gamma * F.logsigmoid(-truth))
    slope = torch.sigmoid(-truth) - gamma * torch.sigmoid(truth) * F.logsigmoid(truth)
    return (grad.to(truth.dtype) * -sign * weight * modulation * slope).to(logits.dtype)
