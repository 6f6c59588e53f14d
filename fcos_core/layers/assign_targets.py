"""Assignment of ground-truth boxes to locations (FCOS, sec. 3.1 and 3.2)."""

from itertools import pairwise

import torch
from torch import Tensor

from fcos_core.layers._operators import define


def assign_targets(
    locations: Tensor,
    ranges: Tensor,
    boxes: Tensor,
    labels: Tensor,
    offsets: Tensor,
    radii: Tensor | None = None,
    continuous: bool = False,
) -> tuple[Tensor, Tensor]:
    """Find the box that each location of each image is trained on.

    A location is a candidate for a box if it lies strictly inside the box and its largest distance to a side falls in
    the location's range, ends included. With `radii`, it must also lie strictly inside the square whose sides are
    radius pixels away from the box's centre (center sampling of later FCOS). Among several boxes the location takes the
    box of least area, among equal areas the first. Raise RuntimeError if a shape, dtype, device or number is not as
    below.

    Args:
        locations: (L, 2) float32 or float64, (x, y) in pixels.
        ranges: (L, 2) of the dtype of locations, (lowest, highest) largest distance in pixels.
        boxes: (M, 4) of the dtype of locations, xyxy in pixels; first the boxes of image 0, then of image 1, etc.
        labels: (M,) int64.
        offsets: (N + 1,) int64; the boxes of image i are [offsets[i], offsets[i + 1]). They do not decrease and go
            from 0 to M. On CUDA their values are not checked, because the host would have to wait for the device.
        radii: (L,) of the dtype of locations, in pixels.
        continuous: True if the area of a box is (x2 - x1) * (y2 - y1), False if the corner pixels count in it:
            (x2 - x1 + 1) * (y2 - y1 + 1).

    Returns:
        (N, L) int64, the box's label, and (N, L, 4), the distances (left, top, right, bottom) to its sides in pixels;
        both are 0 without a box.
    """
    _check(locations, ranges, boxes, labels, offsets, radii)
    return torch.ops.fcos_core.assign_boxes(locations, ranges, boxes, labels, offsets, radii, continuous)


def _check(
    locations: Tensor, ranges: Tensor, boxes: Tensor, labels: Tensor, offsets: Tensor, radii: Tensor | None
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
    if radii is not None and (radii.shape != locations.shape[:1] or radii.dtype != locations.dtype):
        raise RuntimeError(
            f"assign_targets: radii must be {locations.dtype} of shape ({len(locations)},), one per location, "
            f"they are {radii.dtype} of {list(radii.shape)}."
        )
    for tensor in (ranges, boxes, labels, offsets, *([] if radii is None else [radii])):
        if tensor.device != locations.device:
            raise RuntimeError(
                "assign_targets: all tensors must be on one device, they are on "
                f"{locations.device} and {tensor.device}."
            )


def assign_targets_reference(
    locations: Tensor,
    ranges: Tensor,
    boxes: Tensor,
    labels: Tensor,
    offsets: Tensor,
    radii: Tensor | None = None,
    continuous: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute `assign_targets` in plain PyTorch."""
    _check(locations, ranges, boxes, labels, offsets, radii)
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
        # Take a part of the locations at a time, so that the pairs of locations and boxes fit into memory.
        step = max(1, 2**20 // (last - first))
        for part in torch.arange(len(locations), device=locations.device).split(step):
            assigned[image, part], distances[image, part] = _assign_in_image(
                locations[part],
                ranges[part],
                boxes[first:last],
                labels[first:last],
                None if radii is None else radii[part],
                continuous,
            )
    return assigned, distances


def _assign_in_image(
    locations: Tensor, ranges: Tensor, boxes: Tensor, labels: Tensor, radii: Tensor | None, continuous: bool
) -> tuple[Tensor, Tensor]:
    """Return labels (L,) and distances (L, 4) of locations (L, 2) of an image with boxes (M, 4), M > 0."""
    distances = torch.cat([locations[:, None] - boxes[:, :2], boxes[:, 2:] - locations[:, None]], dim=2)
    largest = distances.amax(dim=2)
    candidate = distances.amin(dim=2) > 0
    candidate &= (largest >= ranges[:, :1]) & (largest <= ranges[:, 1:])
    if radii is not None:
        centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, radii[:, None, None]
        points = locations[:, None]
        candidate &= ((points > centres - radii) & (points < centres + radii)).all(dim=2)
    edge = 0 if continuous else 1
    areas = (boxes[:, 2] - boxes[:, 0] + edge) * (boxes[:, 3] - boxes[:, 1] + edge)
    least_area, index = areas.expand_as(candidate).masked_fill(~candidate, torch.inf).min(dim=1)
    background = least_area == torch.inf
    distances = distances.gather(1, index[:, None, None].expand(-1, 1, 4)).squeeze(1)
    return labels[index].masked_fill(background, 0), distances.masked_fill(background[:, None], 0)


def _fake(
    locations: Tensor,
    ranges: Tensor,
    boxes: Tensor,
    labels: Tensor,
    offsets: Tensor,
    radii: Tensor | None = None,
    continuous: bool = False,
) -> tuple[Tensor, Tensor]:
    num_images, num_locations = offsets.size(0) - 1, locations.size(0)
    return labels.new_empty(num_images, num_locations), boxes.new_empty(num_images, num_locations, 4)


# An extension that was built before center sampling has an operator "assign_targets" with fewer arguments.
define(
    "assign_boxes",
    "(Tensor locations, Tensor ranges, Tensor boxes, Tensor labels, Tensor offsets, Tensor? radii=None, "
    "bool continuous=False) -> (Tensor, Tensor)",
    assign_targets_reference,
    _fake,
)
