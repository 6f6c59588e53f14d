"""Samples gathered into a batch."""

from collections.abc import Sequence

from torch import Tensor

from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImageList, PixelNormalization, to_byte_image_list

Batch = tuple[ByteImageList, list[BoxList], list[int]]


class BatchCollator:
    """Pads images to a common size.

    Args:
        size_divisible: height and width of the batch are a multiple of this.
        normalize: makes floats of the batch when it has come to its device.
    """

    def __init__(self, size_divisible: int, normalize: PixelNormalization) -> None:
        self.size_divisible = size_divisible
        self.normalize = normalize

    def __call__(self, samples: Sequence[tuple[Tensor, BoxList, int]], at_least: tuple[int, int] = (0, 0)) -> Batch:
        """N images with their true sizes, N box lists, N dataset indices.

        Args:
            samples: at least one of (pixels (h, w, 3) uint8, boxes, dataset index).
            at_least: (height, width) to pad to where no image needs more.
        """
        images, targets, indices = zip(*samples, strict=True)
        batch = to_byte_image_list(images, self.normalize, self.size_divisible, at_least)
        return batch, list(targets), list(indices)
