"""Resize and flip an RGB image and its boxes, in 8 bits, as a plan says."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fcos_core.data.plan import SamplePlan
from fcos_core.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList


def transform(image: Image.Image, target: BoxList, plan: SamplePlan) -> tuple[Tensor, BoxList]:
    """Resize, then flip; the result depends on the arguments alone.

    Args:
        image: RGB image.
        target: boxes on the image, in any mode.
        plan: the size to resize to and the flip.

    Returns:
        Pixels (H, W, 3) uint8, RGB, and the boxes on them. The arguments are not changed.
    """
    pixels = resize_pixels(torch.from_numpy(np.array(image)), plan.size)
    target = target.resize(plan.size)
    if plan.flip:
        return pixels.flip(1), target.transpose(FLIP_LEFT_RIGHT)
    return pixels, target


def resized_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """Compute the size that an image is resized to.

    The shorter side becomes `min_size`, or less where the longer side would be longer than `max_size`: then the
    shorter side is rounded. The longer side is truncated.

    Args:
        size: (width, height) of the image in pixels.
        min_size: wanted shorter side in pixels.
        max_size: cap on the longer side in pixels.

    Returns:
        (width, height) in pixels.
    """
    short, long = min(size), max(size)
    if long / short * min_size > max_size:
        min_size = max(round(max_size * short / long), 1)
    if short == min_size:
        return size
    other = int(min_size * long / short)
    return (min_size, other) if size[0] < size[1] else (other, min_size)


def resize_pixels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize with bilinear interpolation and antialiasing, within one grey level of PIL's `Image.resize`.

    Args:
        pixels: (H, W, 3) uint8.
        size: (width, height) in pixels of the result.

    Returns:
        (height, width, 3) uint8.
    """
    # A batch of one in channels_last, because torch resizes that layout several times as fast as planes.
    batch = pixels[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size=size[::-1], mode="bilinear", antialias=True)[0].permute(1, 2, 0)
