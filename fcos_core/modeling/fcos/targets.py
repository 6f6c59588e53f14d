"""Which box each location is trained on (FCOS, sec. 3.1 and 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

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
        labels (N, L) int64, 0 for background, and distances (left, top, right, bottom) in pixels (N, L, 4),
        meaningful where the label is positive; L counts all levels, finest first.
    """
    level_ranges = [
        points.new_tensor(limits).expand(len(points), 2) for points, limits in zip(locations, ranges, strict=True)
    ]
    points, limits = torch.cat(list(locations)), torch.cat(level_ranges)
    per_image = [_assign_image(points, limits, target) for target in targets]
    labels, distances = zip(*per_image, strict=True)
    return torch.stack(labels), torch.stack(distances)


def _assign_image(points: Tensor, limits: Tensor, target: BoxList) -> tuple[Tensor, Tensor]:
    if len(target) == 0:
        return points.new_zeros(len(points), dtype=torch.int64), points.new_zeros(len(points), 4)
    boxes = target.convert("xyxy").bbox.to(points)
    distances = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], dim=2)
    largest = distances.amax(dim=2)
    candidate = distances.amin(dim=2) > 0
    candidate &= (largest >= limits[:, :1]) & (largest <= limits[:, 1:])
    areas = target.area().to(points).expand(len(points), -1)
    least_area, index = areas.masked_fill(~candidate, torch.inf).min(dim=1)
    labels = target.get_field("labels").to(points.device)[index]
    labels = labels.masked_fill(least_area == torch.inf, 0)
    return labels, distances.gather(1, index[:, None, None].expand(-1, 1, 4)).squeeze(1)


def centerness_targets(distances: Tensor) -> Tensor:
    """(N,) centerness of (N, 4) positive distances (FCOS, eq. 3): 1 in a box's centre, 0 on its border."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = horizontal.amin(1) / horizontal.amax(1) * (vertical.amin(1) / vertical.amax(1))
    return ratio.sqrt()
