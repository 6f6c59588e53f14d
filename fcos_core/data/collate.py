"""Gather samples into a batch."""

from collections.abc import Sequence

from torch import Tensor

from fcos_core.data.plan import BatchPlan
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageViews, PixelNormalization, to_byte_images

# Pixels (h, w, 3) RGB, the boxes on them, and the image's index.
Sample = tuple[Tensor, BoxList, int]
Batch = tuple[ByteImages | ImageViews, list[BoxList], list[int]]


class BatchCollator:
    """Pads images to a common size and gathers them with their boxes and indices; see `to_byte_images`."""

    def __init__(self, size_divisible: int, normalization: PixelNormalization) -> None:
        self.size_divisible, self.normalization = size_divisible, normalization

    def __call__(
        self, samples: Sequence[Sample], at_least: tuple[int, int] = (0, 0)
    ) -> tuple[ByteImages, list[BoxList], list[int]]:
        """Gather samples, at least one (pixels (h, w, 3) RGB, boxes, dataset index)."""
        images, targets, indices = zip(*samples, strict=True)
        batch = to_byte_images(images, self.normalization, self.size_divisible, at_least)
        return batch, list(targets), list(indices)

    def gather(self, images: Sequence[Sequence[Sample]], views: Sequence[BatchPlan]) -> Batch:
        """Gather images, each with a sample for each of `views`; several views become `ImageViews`."""
        of_views = zip(zip(*images, strict=True), views, strict=True)
        batches = [self(samples, view.padded_size) for samples, view in of_views]
        first, targets, indices = batches[0]
        if len(views) == 1:
            return first, targets, indices
        flipped = tuple(view.samples[0].flip for view in views)
        return ImageViews(tuple(pixels for pixels, _, _ in batches), flipped), targets, indices
