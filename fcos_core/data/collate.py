"""Gather samples into a batch."""

from collections.abc import Sequence

from torch import Tensor

from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, PixelNormalization, to_byte_images

Batch = tuple[ByteImages, list[BoxList], list[int]]


class BatchCollator:
    """Pads 8-bit images to a common size and gathers them with their boxes and indices; see `to_byte_images`."""

    def __init__(self, size_divisible: int, normalization: PixelNormalization) -> None:
        self.size_divisible, self.normalization = size_divisible, normalization

    def __call__(self, samples: Sequence[tuple[Tensor, BoxList, int]], at_least: tuple[int, int] = (0, 0)) -> Batch:
        """Gather samples, at least one (pixels (h, w, 3) uint8 RGB, boxes, dataset index)."""
        images, targets, indices = zip(*samples, strict=True)
        batch = to_byte_images(images, self.normalization, self.size_divisible, at_least)
        return batch, list(targets), list(indices)
