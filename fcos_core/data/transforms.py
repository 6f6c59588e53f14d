"""From an RGB image and its boxes to what the network takes; chance comes in as a generator."""

from collections.abc import Sequence

import numpy as np
import torch
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
        self, image: Image.Image, target: BoxList, rng: np.random.Generator, limit: tuple[int, int] | None = None
    ) -> tuple[Image.Image, BoxList]:
        size = self.output_size(image.size, rng)
        if limit is not None:
            size = _within(size, limit)
        return image.resize(size, Image.Resampling.BILINEAR), target.resize(size)


class HorizontalFlip:
    """Mirrors image and boxes with probability `prob`."""

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def __call__(self, image: Image.Image, target: BoxList, rng: np.random.Generator) -> tuple[Image.Image, BoxList]:
        if rng.random() >= self.prob:
            return image, target
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), target.transpose(FLIP_LEFT_RIGHT)


class ToTensor:
    """(3, H, W) float32, the image minus `mean` over `std`.

    Args:
        mean, std: three numbers, in the order and range of the channels.
        to_bgr255: BGR in 0-255; otherwise RGB in 0-1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], to_bgr255: bool) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(3, 1, 1)
        self.to_bgr255 = to_bgr255

    def __call__(self, image: Image.Image) -> Tensor:
        # Planar before anything else: every later step is slower on interleaved channels.
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        pixels = pixels.flip(0).to(torch.float32) if self.to_bgr255 else pixels.to(torch.float32).div_(255)
        return pixels.sub_(self.mean).div_(self.std)


class Transform:
    """Resize, flip, tensor.

    Args:
        min_sizes, max_size: see `Resize`.
        flip_prob: see `HorizontalFlip`.
        to_tensor: the last step.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int, flip_prob: float, to_tensor: ToTensor) -> None:
        self.resize = Resize(min_sizes, max_size)
        self.flip = HorizontalFlip(flip_prob)
        self.to_tensor = to_tensor

    def output_size(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """(width, height) that a call with a generator in the state of `rng` gives an image of `size`."""
        return self.resize.output_size(size, rng)

    def __call__(
        self, image: Image.Image, target: BoxList, rng: np.random.Generator, limit: tuple[int, int] | None = None
    ) -> tuple[Tensor, BoxList]:
        """(3, H, W) float32 and the boxes on it; all chance comes from `rng`.

        Args:
            limit: (width, height) that the result is scaled down to fit in.
        """
        image, target = self.resize(image, target, rng, limit)
        image, target = self.flip(image, target, rng)
        return self.to_tensor(image), target
