"""The operators of csrc/ in plain PyTorch: what they mean, and what runs where no kernel was compiled."""

from itertools import pairwise

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
    suppressed; a NaN score counts as the highest. A score of -inf marks an empty slot, which is not kept and
    suppresses nothing.

    Args:
        boxes: (N, 4) float32 or float64, xyxy in pixels.
        scores: (N,) floating point, -inf in empty slots.
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
    order = order[scores[order] != -torch.inf]
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
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
    counted = targets[:, None] >= 0
    sign = torch.where(positive, 1.0, -1.0).to(math_dtype) * counted
    weight = torch.where(positive, alpha, 1 - alpha).to(math_dtype) * counted
    return sign, torch.where(counted, logits.to(math_dtype), 0) * sign, weight


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


def _check_focal_loss_scale(name: str, scale: Tensor, logits: Tensor) -> None:
    wanted = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if scale.shape != () or scale.dtype != wanted or scale.device != logits.device:
        raise RuntimeError(
            f"{name} must be a scalar tensor of {wanted} on {logits.device}, "
            f"it is {list(scale.shape)} {scale.dtype} on {scale.device}."
        )


def sigmoid_focal_loss_sum_reference(
    logits: Tensor, targets: Tensor, scale: Tensor, gamma: float, alpha: float, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """The sum of all losses of `sigmoid_focal_loss_reference`, times `scale`, and its gradient.

    Args:
        logits, targets, gamma, alpha: those of `sigmoid_focal_loss_reference`.
        scale: scalar of the dtype of the loss.
        with_grad: whether the gradient is wanted.

    Returns:
        The loss, a scalar: float64 for float64 logits, else float32. Its gradient with respect to logits, (N, C) of
        their dtype, rounded once; (0,) where it is not wanted.

    Raises:
        RuntimeError: a shape, dtype, device or number is not as above.
    """
    _check_focal_loss_inputs(logits, targets, gamma, alpha)
    _check_focal_loss_scale("sigmoid_focal_loss_sum: scale", scale, logits)
    wide = logits.to(scale.dtype)
    loss = sigmoid_focal_loss_reference(wide, targets, gamma, alpha).sum() * scale
    if not with_grad:
        return loss, logits.new_empty(0)
    gradient = sigmoid_focal_loss_backward_reference(scale.expand(wide.shape), wide, targets, gamma, alpha)
    return loss, gradient.to(logits.dtype)


def scale_gradient_reference_(gradient: Tensor, factor: Tensor) -> None:
    """Multiply `gradient` in place by `factor`, a scalar: float64 for a float64 gradient, else float32.

    Raises:
        RuntimeError: the factor's shape, dtype or device is not as above.
    """
    _check_focal_loss_scale("scale_gradient_: factor", factor, gradient)
    gradient.mul_(factor)


def _check_assign_targets_inputs(
    locations: Tensor, ranges: Tensor, boxes: Tensor, labels: Tensor, offsets: Tensor
) -> None:
    if locations.dim() != 2 or locations.size(1) != 2:
        raise RuntimeError(f"assign_targets: locations must have shape (L, 2), they have {list(locations.shape)}.")
    if locations.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f"assign_targets: locations must be float32 or float64, they are {locations.dtype}.")
    if ranges.shape != locations.shape:
        raise RuntimeError(
            f"assign_targets: ranges must have the shape of locations, {list(locations.shape)}, "
            f"they have {list(ranges.shape)}."
        )
    if boxes.dim() != 2 or boxes.size(1) != 4:
        raise RuntimeError(f"assign_targets: boxes must have shape (M, 4), they have {list(boxes.shape)}.")
    if not locations.dtype == ranges.dtype == boxes.dtype:
        raise RuntimeError(
            "assign_targets: locations, ranges and boxes must be of one dtype, they are "
            f"{locations.dtype}, {ranges.dtype} and {boxes.dtype}."
        )
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        raise RuntimeError(
            f"assign_targets: labels must be int64 of shape ({len(boxes)},), one per box, "
            f"they are {labels.dtype} of {list(labels.shape)}."
        )
    if offsets.dim() != 1 or len(offsets) < 1 or offsets.dtype != torch.int64:
        raise RuntimeError(
            "assign_targets: offsets must be int64 of shape (images + 1,), "
            f"they are {offsets.dtype} of {list(offsets.shape)}."
        )
    for tensor in (ranges, boxes, labels, offsets):
        if tensor.device != locations.device:
            raise RuntimeError(
                "assign_targets: all tensors must be on one device, they are on "
                f"{locations.device} and {tensor.device}."
            )


def assign_targets_reference(
    locations: Tensor, ranges: Tensor, boxes: Tensor, labels: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """The box that each location of each image is trained on (FCOS, sec. 3.1 and 3.2).

    A location belongs to a box that it lies strictly inside and whose largest distance falls in the location's
    range, ends included; of several boxes to the one of least area, of equal ones to the first. The corner pixels
    count in an area, (x2 - x1 + 1) * (y2 - y1 + 1).

    Args:
        locations: (L, 2) float32 or float64, (x, y) in pixels.
        ranges: (L, 2) of the dtype of locations, (lowest, highest) largest distance in pixels.
        boxes: (M, 4) of the dtype of locations, xyxy in pixels, those of the first image, then of the next.
        labels: (M,) int64.
        offsets: (N + 1,) int64; boxes of image i are [offsets[i], offsets[i + 1]). They do not decrease and go from
            0 to M, which is not checked on CUDA, as that would wait for the device.

    Returns:
        (N, L) int64, the box's label, 0 without a box, and (N, L, 4), the distances (left, top, right, bottom) to
        its sides in pixels, 0 without a box.

    Raises:
        RuntimeError: a shape, dtype, device or number is not as above.
    """
    _check_assign_targets_inputs(locations, ranges, boxes, labels, offsets)
    bounds = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] != len(boxes) or bounds != sorted(bounds):
        raise RuntimeError(
            f"assign_targets: offsets must not decrease and go from 0 to the number of boxes, {len(boxes)}."
        )
    assigned = labels.new_zeros(len(bounds) - 1, len(locations))
    distances = boxes.new_zeros(len(bounds) - 1, len(locations), 4)
    for image, (first, last) in enumerate(pairwise(bounds)):
        if first == last:
            continue
        # a part of the locations at a time, for pairs of locations and boxes to stay few
        step = max(1, 2**20 // (last - first))
        for part in torch.arange(len(locations), device=locations.device).split(step):
            assigned[image, part], distances[image, part] = _assign_locations(
                locations[part], ranges[part], boxes[first:last], labels[first:last]
            )
    return assigned, distances


def _assign_locations(locations: Tensor, ranges: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (L,) and distances (L, 4) of locations (L, 2) of an image with boxes (M, 4), M > 0."""
    distances = torch.cat([locations[:, None] - boxes[:, :2], boxes[:, 2:] - locations[:, None]], dim=2)
    largest = distances.amax(dim=2)
    candidate = distances.amin(dim=2) > 0
    candidate &= (largest >= ranges[:, :1]) & (largest <= ranges[:, 1:])
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    least_area, index = areas.expand_as(candidate).masked_fill(~candidate, torch.inf).min(dim=1)
    background = least_area == torch.inf
    distances = distances.gather(1, index[:, None, None].expand(-1, 1, 4)).squeeze(1)
    return labels[index].masked_fill(background, 0), distances.masked_fill(background[:, None], 0)


def _check_group_norm_relu_inputs(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> None:
    if x.dim() != 4 or not x.is_floating_point():
        raise RuntimeError(
            f"group_norm_relu: x must be floating point of shape (N, C, H, W), it is {x.dtype} of {list(x.shape)}."
        )
    if groups < 1 or x.size(1) % groups:
        raise RuntimeError(f"group_norm_relu: groups must divide the {x.size(1)} channels, they are {groups}.")
    dtype = torch.promote_types(x.dtype, torch.float32)
    for parameter in (weight, bias):
        if parameter.shape != x.shape[1:2] or parameter.dtype != dtype or parameter.device != x.device:
            raise RuntimeError(
                f"group_norm_relu: weight and bias must be {dtype} of shape ({x.size(1)},) on {x.device}, one is "
                f"{parameter.dtype} of {list(parameter.shape)} on {parameter.device}."
            )


def _of_channels(values: Tensor, x: Tensor) -> Tensor:
    """(N, groups) to what multiplies the channels of x, (N, C, 1, 1)."""
    return values.repeat_interleave(x.size(1) // values.size(1), dim=1)[:, :, None, None]


def group_norm_relu_reference(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`relu(group_norm(x))` (Wu and He 2018, arXiv:1803.08494, sec. 3).

    Args:
        x: (N, C, H, W) floating point; half types are computed in float32.
        weight, bias: (C,) of x's dtype, float32 for half types.
        groups: number of groups, divides C.
        epsilon: added to the variance.

    Returns:
        y of x's shape and dtype, channels-last; mean and 1 / standard deviation (N, groups) of weight's dtype.

    Raises:
        RuntimeError: a shape, dtype or device is not as above.
    """
    _check_group_norm_relu_inputs(x, weight, bias, groups)
    values = x.to(weight.dtype)
    variance, mean = torch.var_mean(values.unflatten(1, (groups, -1)), dim=(2, 3, 4), correction=0)
    rstd = (variance + epsilon).rsqrt()
    normalized = (values - _of_channels(mean, x)) * _of_channels(rstd, x)
    y = torch.relu(normalized * weight[:, None, None] + bias[:, None, None])
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last), mean, rstd


def group_norm_relu_backward_reference(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias for `grad`, that of y, as `group_norm_relu_reference` gives the others."""
    groups = mean.size(1)
    _check_group_norm_relu_inputs(x, weight, bias, groups)
    normalized = (x.to(weight.dtype) - _of_channels(mean, x)) * _of_channels(rstd, x)
    passes = ~(normalized * weight[:, None, None] + bias[:, None, None] <= 0)
    grad = torch.where(passes, grad.to(weight.dtype), 0)
    weighted = grad * weight[:, None, None]
    means, products = (
        _of_channels(values.unflatten(1, (groups, -1)).mean(dim=(2, 3, 4)), x)
        for values in (weighted, weighted * normalized)
    )
    gradient = _of_channels(rstd, x) * (weighted - means - normalized * products)
    gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return gradient, (grad * normalized).sum(dim=(0, 2, 3)), grad.sum(dim=(0, 2, 3))


def add_relu_reference_(x: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool) -> None:
    """Add `bias` and `shortcut` to x, and rectify it if `relu`, in place and rounded once.

    Args:
        x: (N, C, H, W) floating point.
        bias: (C,) of x's dtype, or None.
        shortcut: of x's dtype and shape, or None.

    Raises:
        RuntimeError: a shape, dtype or device is not as above.
    """
    if x.dim() != 4 or not x.is_floating_point():
        raise RuntimeError(
            f"add_relu_: x must be floating point of shape (N, C, H, W), it is {x.dtype} of {list(x.shape)}."
        )
    for name, shape, value in (("bias", x.shape[1:2], bias), ("shortcut", x.shape, shortcut)):
        if value is not None and (value.shape != shape or value.dtype != x.dtype or value.device != x.device):
            raise RuntimeError(f"add_relu_: {name} must be of x's dtype and device, and of shape {list(shape)}.")
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        values = values + bias[:, None, None]
    if shortcut is not None:
        values = values + shortcut
    x.copy_(values.relu() if relu else values)
