"""Resize images as one of several frameworks does: which size, and how pixels are interpolated."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fcos_core.errors import InputError


@dataclass(frozen=True)
class Resize:
    """Resize to a shorter side, with a cap on the longer side, by the rule of one framework.

    A detector has learnt the interpolation of the framework that trained it.

    Attributes:
        rule: "fcos" (maskrcnn-benchmark), "detectron2" (ResizeShortestEdge), "mmdet" (mmcv's rescale) or "torchvision"
            (GeneralizedRCNNTransform); see INPUT.RESIZE.

    Raises:
        InputError: the rule is "mmdet" and OpenCV cannot be imported.
    """

    rule: str = "fcos"

    def __post_init__(self) -> None:
        if self.rule == "mmdet":
            opencv()  # an error at the start, not in a worker

    def size(self, size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
        """Compute the size that an image is resized to; no side becomes less than 1.

        Args:
            size: (width, height) of the image in pixels.
            min_size: wanted shorter side in pixels.
            max_size: cap on the longer side in pixels; the shorter side becomes less than `min_size` where it needs to.

        Returns:
            (width, height) in pixels.
        """
        if self.rule == "fcos":
            return _fcos_size(size, min_size, max_size)
        if self.rule == "detectron2":
            return _detectron2_size(size, min_size, max_size)
        scale = min(max_size / max(size), min_size / min(size))
        half = 0.5 if self.rule == "mmdet" else 0.0
        width, height = (max(math.floor(side * scale + half), 1) for side in size)
        return width, height

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of resized pixels."""
        return torch.float32 if self.rule == "torchvision" else torch.uint8

    def __call__(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize (H, W, 3) uint8 pixels to (height, width, 3).

        Args:
            pixels: (H, W, 3) uint8.
            size: (width, height) in pixels of the result.

        Returns:
            uint8, but float32 in 0 to 255 by the rule "torchvision", which does not round. "fcos" is within one grey
            level of PIL's `Image.resize`; "detectron2" is PIL's and "mmdet" OpenCV's.
        """
        if self.rule == "detectron2":
            resized = Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(resized))
        if self.rule == "mmdet":
            cv2 = opencv()
            return torch.from_numpy(cv2.resize(pixels.numpy(), size, interpolation=cv2.INTER_LINEAR))
        # A batch of one in channels_last, because torch resizes that layout several times as fast as planes.
        batch = pixels[None].permute(0, 3, 1, 2)
        batch = batch.to(self.dtype)
        antialias = self.rule == "fcos"
        return F.interpolate(batch, size=size[::-1], mode="bilinear", antialias=antialias)[0].permute(1, 2, 0)


FCOS_RESIZE = Resize()


def _fcos_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """Truncate the longer side, and round the shorter side where the longer one is capped."""
    short, long = min(size), max(size)
    if long / short * min_size > max_size:
        min_size = max(round(max_size * short / long), 1)
    if short == min_size:
        return size
    other = int(min_size * long / short)
    return (min_size, other) if size[0] < size[1] else (other, min_size)


def _detectron2_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """Scale the shorter side to `min_size`, then both to the cap, in the order that decides the rounding."""
    scale = min_size / min(size)
    sides = [float(min_size) if side == min(size) else scale * side for side in size]
    shrink = max_size / max(sides) if max(sides) > max_size else 1.0
    width, height = (max(int(side * shrink + 0.5), 1) for side in sides)
    return width, height


def opencv() -> Any:
    """Import OpenCV; only detectors of mmdet and photometric distortion need it."""
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"INPUT.RESIZE mmdet and INPUT.AUG.PHOTOMETRIC_PROB need OpenCV, which cannot be imported ({error}): "
            "install opencv-python, or opencv-python-headless on a machine without a screen."
        ) from error
    return cv2
