"""Images of different sizes in one zero-padded tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class ImageList:
    """A padded batch and the true sizes of its images.

    Args:
        tensors: (N, C, H, W); each image stands at the top left, the rest is zero.
        image_sizes: N times (height, width) in pixels.
    """

    def __init__(self, tensors: Tensor, image_sizes: Sequence[tuple[int, int]]) -> None:
        self.tensors = tensors
        self.image_sizes = [tuple(int(side) for side in size) for size in image_sizes]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        return ImageList(self.tensors.to(*args, **kwargs), self.image_sizes)


def to_image_list(
    images: ImageList | Tensor | Sequence[Tensor], size_divisible: int = 0, at_least: tuple[int, int] = (0, 0)
) -> ImageList:
    """Gather images into an `ImageList`.

    Args:
        images: an `ImageList` (returned as it is), a tensor (C, H, W) or (N, C, H, W), or a sequence of
            (C, H, W) tensors.
        size_divisible: pad height and width up to a multiple of this; 0 pads to the largest image.
        at_least: (height, width) that a sequence is padded to where none of its images is larger.

    Raises:
        TypeError: `images` is something else.
    """
    if isinstance(images, ImageList):
        return images
    if isinstance(images, Tensor):
        images = images[None] if images.ndim == 3 else images
        if images.ndim != 4:
            raise TypeError(f"Images must be (C, H, W) or (N, C, H, W), not {tuple(images.shape)}")
        step = max(size_divisible, 1)
        if images.shape[-2] % step == 0 and images.shape[-1] % step == 0:
            return ImageList(images, [images.shape[-2:]] * len(images))
        images = list(images)
    if not isinstance(images, Sequence) or not all(isinstance(image, Tensor) for image in images):
        raise TypeError(f"Expected an ImageList, a tensor or a sequence of tensors, not {type(images).__name__}")
    return _pad(images, size_divisible, at_least)


def _pad(images: Sequence[Tensor], size_divisible: int, at_least: tuple[int, int]) -> ImageList:
    step = max(size_divisible, 1)
    sizes = [at_least, *(image.shape[-2:] for image in images)]
    height, width = (-(-max(size[axis] for size in sizes) // step) * step for axis in (0, 1))
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[-2], : image.shape[-1]].copy_(image)
    return ImageList(batch, [image.shape[-2:] for image in images])
