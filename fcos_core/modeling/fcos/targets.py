"""Which box each location is trained on (FCOS, sec. 3.1 and 3.2)."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from fcos_core.layers.assign_targets import assign_targets as assign_targets_operator
from fcos_core.structures.bounding_box import BoxList

DEFAULT_RANGES = {
    5: ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 100000000)),
    6: ((-1, 32), (32, 64), (64, 128), (128, 256), (256, 512), (512, 100000000)),
}


def assign_targets(
    locations: Sequence[Tensor], ranges: Sequence[tuple[float, float]], targets: Sequence[BoxList]
) -> tuple[Tensor, Tensor]:
    """Label and regression target of every location of every image.

    A location belongs to a box that it lies strictly inside and whose largest distance falls in the range of the
    location's level, ends included; of several boxes to the one of least area, of equal ones to the first.

    Args:
        locations: per level (L_l, 2), (x, y) in pixels.
        ranges: per level (lowest, highest) largest distance in pixels.
        targets: per image, boxes in pixels with field "labels", (M,) int64, 1-based.

    Returns:
        labels (N, L) int64, 0 for background, and distances (left, top, right, bottom) in pixels (N, L, 4), 0 for
        background; L counts all levels, finest first.
    """
    points = torch.cat(list(locations))
    # without waiting for the device: these few numbers are copied before the call returns
    limits = torch.tensor(ranges, dtype=points.dtype).to(points.device, non_blocking=True)
    limits = torch.cat([limit.expand(len(level), 2) for limit, level in zip(limits, locations, strict=True)])
    boxes = torch.cat([target.convert("xyxy").bbox.to(points) for target in targets])
    labels = torch.cat([target.get_field("labels").to(points.device) for target in targets])
    offsets = torch.tensor([0, *accumulate(map(len, targets))]).to(points.device, non_blocking=True)
    return assign_targets_operator(points, limits, boxes, labels, offsets)


def centerness_targets(distances: Tensor) -> Tensor:
    """(N,) centerness of (N, 4) positive distances (FCOS, eq. 3): 1 in a box's centre, 0 on its border."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = horizontal.amin(1) / horizontal.amax(1) * (vertical.amin(1) / vertical.amax(1))
    return ratio.sqrt()
