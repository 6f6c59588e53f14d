"""Padded batches of images of different sizes: normalized only on the network's device, so they travel as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fcos_core.errors import InputError

Size = tuple[int, int]  # (height, width) in pixels


class ImageList:
    """A zero-padded batch (N, C, H, W) for the network, with the true (height, width) of each image in pixels.

    Each image stands at the top left.
    """

    def __init__(self, tensors: Tensor, image_sizes: Sequence[Sequence[int]]) -> None:
        self.tensors = tensors
        self.image_sizes: list[Size] = [(int(height), int(width)) for height, width in image_sizes]

    @property
    def padded_size(self) -> Size:
        """Height and width of the padded batch in pixels."""
        return _height_and_width(self.tensors)

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, part: slice) -> ImageList:
        """Return some of the images, padded as before, in the same memory."""
        return ImageList(self.tensors[part], self.image_sizes[part])

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """Return the batch on another device or in another dtype; arguments are those of `Tensor.to`."""
        return ImageList(self.tensors.to(*args, **kwargs), self.image_sizes)


@dataclass(frozen=True)
class PixelNormalization:
    """Turns RGB in 0 to 255 into the network's input: each channel minus its mean, divided by its deviation.

    `to_bgr255` gives the order and range of channels, mean and std: BGR in 0-255 if True, RGB in 0-1 if False.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    to_bgr255: bool

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return new float32 (N, 3, H, W) of uint8 or float32 RGB pixels (N, 3, H, W), in the same memory format."""
        tensors = pixels.flip(1).to(torch.float32) if self.to_bgr255 else pixels.to(torch.float32, copy=True).div_(255)
        # Use plain numbers: the host would have to copy a tensor of constants to the device, and wait for the copy.
        for channel, mean, std in zip(tensors.unbind(1), self.mean, self.std, strict=True):
            channel.sub_(mean)
            if std != 1:
                channel.div_(std)
        return tensors


@dataclass(frozen=True, eq=False)
class ByteImages:
    """A padded batch of RGB images (N, 3, H, W) in 0 to 255, which are normalized on the network's device.

    Pixels are uint8, or float32 where resizing does not round them (INPUT.RESIZE torchvision). Each image stands at the
    top left; the padding may hold any value. `image_sizes` are without padding.
    """

    pixels: Tensor
    image_sizes: list[Size]
    normalization: PixelNormalization

    @property
    def padded_size(self) -> Size:
        """Height and width of the padded batch in pixels."""
        return _height_and_width(self.pixels)

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, part: slice) -> ByteImages:
        """Return some of the images, padded as before, in the same memory."""
        return ByteImages(self.pixels[part], self.image_sizes[part], self.normalization)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ByteImages:
        """Return the pixels on `device`; with `non_blocking` the host does not wait for a copy from pinned memory."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ByteImages:
        """Return the pixels in page-locked memory, from which a GPU copies while the program goes on."""
        return replace(self, pixels=self.pixels.pin_memory())

    def normalize(self, memory_format: torch.memory_format = torch.contiguous_format) -> ImageList:
        """Return the network's input, float32 (N, 3, H, W) laid out as `memory_format`, with zeros as padding."""
        tensors = self.normalization(self.pixels.contiguous(memory_format=memory_format))
        for image, (height, width) in zip(tensors, self.image_sizes, strict=True):
            image[:, height:].zero_()
            image[:, :height, width:].zero_()
        return ImageList(tensors, self.image_sizes)


@dataclass(frozen=True, eq=False)
class ImageViews:
    """Batches of the same images, each resized otherwise or mirrored, for test-time augmentation.

    `flipped` tells for each of `views` whether its images are mirrored from left to right; the first is not.
    """

    views: tuple[ByteImages, ...]
    flipped: tuple[bool, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageViews:
        """Return the bytes on `device`, see `ByteImages.to`."""
        return replace(self, views=tuple(view.to(device, non_blocking) for view in self.views))

    def pin_memory(self) -> ImageViews:
        """Return the bytes in page-locked memory, see `ByteImages.pin_memory`."""
        return replace(self, views=tuple(view.pin_memory() for view in self.views))


def to_byte_images(
    images: Sequence[Tensor], normalization: PixelNormalization, size_divisible: int = 0, at_least: Size = (0, 0)
) -> ByteImages:
    """Gather RGB images of one dtype, at least one (H, W, 3), into one channels-last batch.

    The batch is as large as the largest image and `at_least` (height, width), rounded up as in `padded_size`.
    """
    planes = [image.permute(2, 0, 1) for image in images]
    return ByteImages(*_pad(planes, size_divisible, at_least, torch.channels_last), normalization)


def to_image_list(images: ImageList | ByteImages | Tensor | Sequence[Tensor], size_divisible: int = 0) -> ImageList:
    """Return `images` as the network takes them.

    Raise TypeError if `images` has another form than below; InputError if it is `ImageViews`, for an AugmentedDetector.

    An `ImageList` is returned unchanged, `ByteImages` are normalized; a tensor (C, H, W) or (N, C, H, W), or a sequence
    of tensors (C, H, W), is padded to the largest image, rounded up as in `padded_size`.
    """
    if isinstance(images, ImageList):
        return images
    if isinstance(images, ByteImages):
        return images.normalize()
    if isinstance(images, Tensor):
        images = images[None] if images.ndim == 3 else images
        if images.ndim != 4:
            raise TypeError(f"Images must be (C, H, W) or (N, C, H, W), not {tuple(images.shape)}")
        step = max(size_divisible, 1)
        if images.shape[-2] % step == 0 and images.shape[-1] % step == 0:
            return ImageList(images, [images.shape[-2:]] * len(images))
        images = list(images)
    if isinstance(images, ImageViews):
        raise InputError(
            "A detector takes one view of an image, and TEST.BBOX_AUG.ENABLED makes several: give them to the detector "
            "that fcos_core.engine.test_time_augmentation.make_tested_detector(cfg, model) makes."
        )
    if not isinstance(images, Sequence) or not all(isinstance(image, Tensor) for image in images):
        raise TypeError(
            f"Images must be an ImageList, ByteImages, a tensor or a sequence of tensors, not {type(images).__name__}"
        )
    return ImageList(*_pad(images, size_divisible))


def padded_size(sizes: Sequence[Size], size_divisible: int) -> Size:
    """Return the least (height, width) in pixels that holds images of `sizes`, at least one (height, width).

    Both are rounded up to multiples of `size_divisible`; 0 counts as 1.
    """
    step = max(size_divisible, 1)
    height, width = (-(-max(sides) // step) * step for sides in zip(*sizes, strict=True))
    return height, width


def _pad(
    images: Sequence[Tensor],
    size_divisible: int,
    at_least: Size = (0, 0),
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[Tensor, list[Size]]:
    """Copy images (C, H_i, W_i) into zeros (N, C, H, W); return the batch and the images' sizes."""
    sizes = [_height_and_width(image) for image in images]
    shape = (len(images), images[0].shape[0], *padded_size([at_least, *sizes], size_divisible))
    batch = torch.empty(shape, dtype=images[0].dtype, device=images[0].device, memory_format=memory_format).zero_()
    for slot, image, (height, width) in zip(batch, images, sizes, strict=True):
        slot[:, :height, :width] = image
    return batch, sizes


def _height_and_width(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]
