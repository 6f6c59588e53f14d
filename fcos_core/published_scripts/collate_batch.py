"""Published `data.collate_batch`: batches of images that a dataset has transformed itself."""

from collections.abc import Sequence

from torch import Tensor

from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList, to_image_list


class BatchCollator:
    """Pads tensors to a common size, a multiple of `size_divisible`; the `collate_fn` of a DataLoader of one's own."""

    def __init__(self, size_divisible: int = 0) -> None:
        self.size_divisible = size_divisible

    def __call__(
        self, batch: Sequence[tuple[Tensor, BoxList, int]]
    ) -> tuple[ImageList, tuple[BoxList, ...], tuple[int, ...]]:
        """Gather samples of an image (C, H, W), its boxes and its index."""
        images, targets, indices = zip(*batch, strict=True)
        return to_image_list(images, self.size_divisible), targets, indices
