"""Images of different sizes in one zero-padded tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
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

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, part: slice) -> ImageList:
        """Some of the images, padded as before; memory is shared."""
        return ImageList(self.tensors[part], self.image_sizes[part])

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        return ImageList(self.tensors.to(*args, **kwargs), self.image_sizes)


@dataclass(frozen=True)
class PixelNormalization:
    """From 8-bit RGB to what the network takes: each channel minus its mean, divided by its deviation.

    Attributes:
        mean, std: three numbers, in the order and range of the channels that `to_bgr255` gives.
        to_bgr255: BGR in 0-255; otherwise RGB in 0-1.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    to_bgr255: bool

    def __call__(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """A new tensor (N, 3, H, W) of `dtype` from RGB pixels (N, 3, H, W) in 0-255, in their memory format."""
        tensors = pixels.flip(1).to(dtype) if self.to_bgr255 else pixels.to(dtype, copy=True).div_(255)
        # Plain numbers, since constants in a tensor would have to be sent to the device and waited for.
        for channel, mean, std in zip(tensors.unbind(1), self.mean, self.std, strict=True):
            channel.sub_(mean)
            if std != 1:
                channel.div_(std)
        return tensors


class ByteImageList(ImageList):
    """A padded batch of 8-bit RGB images: it travels as bytes and is normalized where it arrives.

    Args:
        pixels: (N, H, W, 3) uint8; each image stands at the top left. The padding's values are of no account.
        image_sizes: N times (height, width) in pixels.
        normalize: makes floats of the pixels.
    """

    def __init__(self, pixels: Tensor, image_sizes: Sequence[tuple[int, int]], normalize: PixelNormalization) -> None:
        self.pixels = pixels
        self.image_sizes = [tuple(int(side) for side in size) for size in image_sizes]
        self.normalize = normalize

    def __getitem__(self, part: slice) -> ByteImageList:
        """Some of the images, padded as before; memory is shared."""
        return ByteImageList(self.pixels[part], self.image_sizes[part], self.normalize)

    @property
    def tensors(self) -> Tensor:
        """(N, 3, H, W) float32 where the bytes are, normalized anew at each access."""
        return self.to(self.pixels.device).tensors

    def to(self, *args: Any, memory_format: torch.memory_format = torch.contiguous_format, **kwargs: Any) -> ImageList:
        """Move the bytes as `Tensor.to` does, and normalize them there; the padding is zero.

        Args:
            memory_format: of the result.

        Returns:
            float32 (N, 3, H, W), or the floating dtype asked for.
        """
        pixels = self.pixels.to(*args, **kwargs)  # 0 to 255 are exact in every floating dtype
        dtype = pixels.dtype if pixels.is_floating_point() else torch.float32
        pixels = pixels.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
        tensors = self.normalize(pixels, torch.promote_types(dtype, torch.float32)).to(dtype)
        for image, (height, width) in zip(tensors, self.image_sizes, strict=True):
            image[:, height:].zero_()
            image[:, :height, width:].zero_()
        return ImageList(tensors, self.image_sizes)

    def copy_to(self, device: torch.device | str, non_blocking: bool = False) -> ByteImageList:
        """The bytes on `device`, not normalized yet."""
        return ByteImageList(self.pixels.to(device, non_blocking=non_blocking), self.image_sizes, self.normalize)

    def pin_memory(self) -> ByteImageList:
        """The bytes in page-locked memory, which a GPU copies from while the program goes on."""
        return ByteImageList(self.pixels.pin_memory(), self.image_sizes, self.normalize)


def to_byte_image_list(
    images: Sequence[Tensor],
    normalize: PixelNormalization,
    size_divisible: int = 0,
    at_least: tuple[int, int] = (0, 0),
) -> ByteImageList:
    """Gather 8-bit images into a `ByteImageList`.

    Args:
        images: at least one (H, W, 3) uint8, RGB.
        normalize: see `ByteImageList`.
        size_divisible, at_least: see `to_image_list`.
    """
    sizes = [image.shape[:2] for image in images]
    batch = images[0].new_zeros(len(images), *_padded_size(sizes, size_divisible, at_least), 3)
    for slot, image, (height, width) in zip(batch, images, sizes, strict=True):
        slot[:height, :width] = image
    return ByteImageList(batch, sizes, normalize)


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
    sizes = [image.shape[-2:] for image in images]
    batch = images[0].new_zeros(len(images), images[0].shape[0], *_padded_size(sizes, size_divisible, at_least))
    for slot, image, (height, width) in zip(batch, images, sizes, strict=True):
        slot[:, :height, :width] = image
    return ImageList(batch, sizes)


def _padded_size(sizes: Sequence[tuple[int, int]], size_divisible: int, at_least: tuple[int, int]) -> tuple[int, int]:
    step = max(size_divisible, 1)
    height, width = (-(-max(sides) // step) * step for sides in zip(at_least, *sizes, strict=True))
    return height, width
