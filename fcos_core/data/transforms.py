"""Random scale and flip of an RGB image and its boxes, in 8 bits; chance comes in as a generator."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fcos_core.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList


def resized_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """(width, height) whose shorter side is `min_size`, or less where the longer would pass `max_size`.

    The capped shorter side is rounded, then the longer side truncated.

    Args:
        size: (width, height) of the image.
    """
    short, long = min(size), max(size)
    if long / short * min_size > max_size:
        min_size = max(round(max_size * short / long), 1)
    if short == min_size:
        return size
    other = int(min_size * long / short)
    return (min_size, other) if size[0] < size[1] else (other, min_size)


def _within(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    scale = min(limit[0] / size[0], limit[1] / size[1], 1.0)
    return max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)


class Resize:
    """Scales image and boxes, bilinear with antialiasing on the 8-bit image.

    Args:
        min_sizes: shorter sides in pixels to draw from, each as likely as the others.
        max_size: cap on the longer side.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int) -> None:
        self.min_sizes = min_sizes
        self.max_size = max_size

    def output_size(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """(width, height) that an image of `size` is given; takes from `rng` what a call takes."""
        min_size = self.min_sizes[rng.integers(len(self.min_sizes))]
        return resized_size(size, min_size, self.max_size)

    def __call__(
        self, pixels: Tensor, target: BoxList, rng: np.random.Generator, limit: tuple[int, int] | None = None
    ) -> tuple[Tensor, BoxList]:
        height, width, _ = pixels.shape
        size = self.output_size((width, height), rng)
        if limit is not None:
            size = _within(size, limit)
        return resize_pixels(pixels, size), target.resize(size)


def resize_pixels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(height, width, 3) uint8, bilinear with antialiasing: what PIL's `Image.resize` gives within one grey level.

    Args:
        pixels: (H, W, 3) uint8.
        size: (width, height).
    """
    # A batch of one in channels_last, which torch resizes several times as fast as planes.
    batch = pixels[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size=size[::-1], mode="bilinear", antialias=True)[0].permute(1, 2, 0)


class HorizontalFlip:
    """Mirrors image and boxes with probability `prob`."""

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def __call__(self, pixels: Tensor, target: BoxList, rng: np.random.Generator) -> tuple[Tensor, BoxList]:
        if rng.random() >= self.prob:
            return pixels, target
        return pixels.flip(1), target.transpose(FLIP_LEFT_RIGHT)


class Transform:
    """Resize, then flip.

    Args:
        min_sizes, max_size: see `Resize`.
        flip_prob: see `HorizontalFlip`.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int, flip_prob: float) -> None:
        self.resize = Resize(min_sizes, max_size)
        self.flip = HorizontalFlip(flip_prob)

    def output_size(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """(width, height) that a call with a generator in the state of `rng` gives an image of `size`."""
        return self.resize.output_size(size, rng)

    def __call__(
        self, image: Image.Image, target: BoxList, rng: np.random.Generator, limit: tuple[int, int] | None = None
    ) -> tuple[Tensor, BoxList]:
        """Pixels (H, W, 3) uint8, RGB, and the boxes on them; all chance comes from `rng`.

        Args:
            limit: (width, height) that the result is scaled down to fit in.
        """
        pixels, target = self.resize(torch.from_numpy(np.array(image)), target, rng, limit)
        return self.flip(pixels, target, rng)
