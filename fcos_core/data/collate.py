"""Samples gathered into a batch."""

from collections.abc import Sequence

from torch import Tensor

from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList, to_image_list

Batch = tuple[ImageList, list[BoxList], list[int]]


class BatchCollator:
    """Pads images to a common size.

    Args:
        size_divisible: height and width of the batch are a multiple of this.

    Raises:
        InputError: `size_divisible` is not a positive multiple of 32.
    """

    def __init__(self, size_divisible: int) -> None:
        if size_divisible < 32 or size_divisible % 32:
            raise InputError(
                f"DATALOADER.SIZE_DIVISIBILITY is {size_divisible}: write a multiple of 32; 32 is the least that "
                "the networks can take."
            )
        self.size_divisible = size_divisible

    def __call__(self, samples: Sequence[tuple[Tensor, BoxList, int]], at_least: tuple[int, int] = (0, 0)) -> Batch:
        """Images (N, 3, H, W) with their true sizes, N boxes lists, N dataset indices.

        Args:
            samples: at least one of (image (3, h, w), boxes, dataset index).
            at_least: (height, width) to pad to where no image needs more.
        """
        images, targets, indices = zip(*samples, strict=True)
        return to_image_list(images, self.size_divisible, at_least), list(targets), list(indices)
