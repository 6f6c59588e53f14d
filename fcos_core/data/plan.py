"""Plan of a batch: every random choice about its images, made before a pixel is read."""

from dataclasses import dataclass

from fcos_core.data.resize import FCOS_RESIZE, Resize


@dataclass(frozen=True)
class SamplePlan:
    """One image of a batch and how to transform it.

    Attributes:
        index: of the image in the dataset.
        size: (width, height) in pixels that the image is resized to.
        flip: True if the resized image is mirrored from left to right.
        min_size: drawn shorter side that `size` follows from; an image that replaces this one is resized by it.
        resize: resizes the pixels.
    """

    index: int
    size: tuple[int, int]
    flip: bool
    min_size: int
    resize: Resize = FCOS_RESIZE


@dataclass(frozen=True)
class BatchPlan:
    """The images of one rank's share of a batch.

    Attributes:
        samples: in the order of their slots.
        padded_size: (height, width) in pixels of the whole batch, the shares of other ranks included.
        views: further views of the same images, for test-time augmentation.
    """

    samples: tuple[SamplePlan, ...]
    padded_size: tuple[int, int]
    views: "tuple[BatchPlan, ...]" = ()
