"""Training targets: the box that each location is trained on (FCOS, sec. 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from fcos_core.errors import InputError
from fcos_core.layers.assign_targets import assign_targets as assign_targets_operator
from fcos_core.modeling.fcos.locations import level_locations
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils import comm

DEFAULT_RANGES = {
    5: ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 100000000)),
    6: ((-1, 32), (32, 64), (64, 128), (128, 256), (256, 512), (512, 100000000)),
}


class Normalizers(NamedTuple):
    """Scalar numbers of the whole batch, divided by the number of processes that share the batch.

    DistributedDataParallel averages gradients over the processes; with these normalizers, the average is the gradient
    of the whole batch.
    """

    positives: Tensor  # number of locations that have a box
    images: Tensor
    centerness: Tensor  # sum of the centerness of these locations
    positives_or_one: Tensor  # the number of positives, at least 1


@dataclass(frozen=True, eq=False)
class AssignedTargets:
    """Targets of every location of N images, which may be a part of a batch. L counts the locations of all levels.

    Attributes:
        level_sizes: (height, width) of each level, finest first.
        labels: (N, L) int64, 1-based class of the location's box; 0 is background.
        distances: (N, L, 4) in pixels to the left, top, right and bottom side of the box; 1 for background.
        centerness: (N, L), 0 for background.
        strides: (L,) in pixels, the stride of the location's level.
        normalizers: normalizers of the whole batch.
    """

    level_sizes: list[tuple[int, int]]
    labels: Tensor
    distances: Tensor
    centerness: Tensor
    strides: Tensor
    normalizers: Normalizers

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> AssignedTargets:
        """Return the targets of some images; the normalizers stay those of the whole batch."""
        return replace(self, labels=self.labels[part], distances=self.distances[part], centerness=self.centerness[part])


class TargetAssigner:
    """Assigns the boxes of a batch to locations and sums the batch's normalizers over all processes.

    Args:
        strides: in pixels, one per level.
        ranges: as in `assign_targets`.
        center_sampling_radius: half the side of the square around a box's centre, in strides, whose locations are
            trained on the box; 0: all locations in the box.
        continuous: True if a box is x2 - x1 wide, False if it is x2 - x1 + 1 wide.
        corners: locations are at the corners of cells, see `level_locations`.
    """

    def __init__(
        self,
        strides: Sequence[int],
        ranges: Sequence[tuple[float, float]],
        center_sampling_radius: float = 0.0,
        continuous: bool = False,
        corners: bool = False,
    ) -> None:
        self.strides, self.ranges = tuple(strides), ranges
        self.center_sampling_radius, self.continuous, self.corners = center_sampling_radius, continuous, corners

    def locations(
        self,
        level_sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> list[Tensor]:
        """Return `level_locations` of every level for padded images of (height, width)."""
        corners_of = padded_size if self.corners else None
        levels = zip(level_sizes, self.strides, strict=True)
        return [level_locations(size, stride, dtype, device, corners_of) for size, stride in levels]

    def __call__(
        self,
        level_sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
        targets: Sequence[BoxList],
        dtype: torch.dtype,
        device: torch.device,
    ) -> AssignedTargets:
        """Return the targets of a process's whole share of a batch, in the network's dtype, float32 for half types.

        Args:
            level_sizes: (height, width) of each level, finest first.
            padded_size: (height, width) of the padded images in pixels.
            targets: as in `assign_targets`.
            dtype, device: of the network.
        """
        locations = self.locations(level_sizes, padded_size, dtype, device)
        # The host does not wait for the device: these few numbers are copied before the call returns.
        level_strides = torch.tensor(self.strides, dtype=locations[0].dtype).to(device, non_blocking=True)
        strides = torch.cat([s.expand(len(level)) for s, level in zip(level_strides, locations, strict=True)])
        radii = strides * self.center_sampling_radius if self.center_sampling_radius else None
        labels, distances = assign_targets(locations, self.ranges, targets, radii, self.continuous)
        positive = labels > 0
        distances = torch.where(positive[..., None], distances, 1)
        centerness = centerness_targets(distances) * positive
        num_images = centerness.new_full((), len(targets))
        own = torch.stack([positive.sum().to(centerness.dtype), num_images, centerness.sum()])
        whole = comm.all_reduce_sum(own)
        normalizers = Normalizers(*(torch.cat([whole, whole[:1].clamp(min=1)]) / comm.get_world_size()).unbind())
        sizes = [tuple(size) for size in level_sizes]
        return AssignedTargets(sizes, labels, distances, centerness, strides, normalizers)


def assign_targets(
    locations: Sequence[Tensor],
    ranges: Sequence[tuple[float, float]],
    targets: Sequence[BoxList],
    radii: Tensor | None = None,
    continuous: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the label and distances of every location of every image by the rule of `layers.assign_targets`.

    Args:
        locations: per level (L_l, 2), (x, y) in pixels.
        ranges: per level (lowest, highest) largest distance in pixels.
        targets: boxes of each image in pixels with field "labels", (M,) int64, 1-based.
        radii, continuous: as in `layers.assign_targets`.

    Returns:
        labels (N, L) int64 and distances (left, top, right, bottom) in pixels (N, L, 4), both 0 for background; L
        counts the locations of all levels, finest first.

    Raises:
        InputError: boxes have no labels.
    """
    if not all(target.has_field("labels") for target in targets):
        raise InputError(
            "Boxes of a training batch have no labels: let the dataset call boxes.add_field('labels', labels), with "
            "an int64 class from 1 on for each box."
        )
    points = torch.cat(list(locations))
    # The host does not wait for the device: these few numbers are copied before the call returns.
    level_ranges = torch.tensor(ranges, dtype=points.dtype).to(points.device, non_blocking=True)
    point_ranges = [pair.expand(len(level), 2) for pair, level in zip(level_ranges, locations, strict=True)]
    boxes = torch.cat([target.convert("xyxy").with_pixels(continuous).bbox.to(points) for target in targets])
    labels = torch.cat([target.get_field("labels").to(points.device) for target in targets])
    offsets = torch.tensor([0, *accumulate(map(len, targets))]).to(points.device, non_blocking=True)
    return assign_targets_operator(points, torch.cat(point_ranges), boxes, labels, offsets, radii, continuous)


def centerness_targets(distances: Tensor) -> Tensor:
    """Return (...) centerness of positive distances (..., 4) (FCOS, eq. 3): 1 in a box's centre, 0 on its border."""
    horizontal, vertical = distances[..., 0::2], distances[..., 1::2]
    ratio = horizontal.amin(-1) / horizontal.amax(-1) * (vertical.amin(-1) / vertical.amax(-1))
    return ratio.sqrt()
