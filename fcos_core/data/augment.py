"""Compose an augmented picture and its boxes from images, as a plan says; no chance in here.

Every image is cropped, resized once and laid on a canvas. Boxes follow by the arithmetic of `BoxList.resize`, which a
test applies backwards to detections: coordinates are multiplied by the ratio of the sizes, in inclusive and in
continuous pixels alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from fcos_core.data.plan import Augmentation, Colors, Copies, SamplePlan, Tile, Window, scaled
from fcos_core.data.resize import Resize, opencv
from fcos_core.structures.bounding_box import FLIP_TOP_BOTTOM, BoxList, cat_boxlist

# A box stays if this share of its area is left, and if it is this many pixels wide and high. SSD's rule, that the
# center is inside the crop, leaves a quarter, less what rounding to pixels takes.
_LEAST_SHARE, _LEAST_SIDE = 0.2, 2
# A box goes if copied objects cover more than this share of it.
_MOST_COVERED = 0.5

# Weights of red, green and blue in grey (ITU-R BT.601), as torchvision's contrast has them.
_GREY = np.array([0.299, 0.587, 0.114])
_WHOLE: Window = (0.0, 0.0, 1.0, 1.0)

# (left, top, right, bottom) in whole pixels; right and bottom are outside.
Rectangle = tuple[int, int, int, int]
Source = tuple[Image.Image, BoxList]


def augment(sources: Mapping[int, Source], plan: SamplePlan) -> tuple[Tensor, BoxList]:
    """Make the picture of `plan.size` that `plan.augmentation` describes; the horizontal flip is not done here.

    A box that a crop or the edge of a tile cuts keeps its visible part. It is dropped if less than a fifth of its
    area is left, if it is less than 2 pixels wide or high, or if copied objects cover more than half of it.

    Args:
        sources: dataset index to the RGB image and its boxes, for all that the plan names. If those that objects are
            to be copied from are not there, nothing is copied.
        plan: with an augmentation.

    Returns:
        RGB pixels (H, W, 3), uint8 or float32 as `Resize` gives them, and the boxes on them, xyxy with the field
        "labels" alone.
    """
    augmentation = plan.augmentation
    assert augmentation is not None
    target = sources[plan.index][1]
    window = _crop_window(augmentation, target)
    canvas = _Canvas(plan.size, plan.resize, augmentation.fill, target.continuous)
    for tile, region in zip(augmentation.tiles, _regions(plan.size, augmentation), strict=True):
        canvas.lay(sources[tile.index], tile, region, window)
    if augmentation.copies is not None and augmentation.copies.index in sources:
        canvas.copy_objects(sources[augmentation.copies.index], augmentation.copies)
    if augmentation.mixup is not None:
        partner = _Canvas(plan.size, plan.resize, augmentation.fill, target.continuous)
        partner.lay(sources[augmentation.mixup.index], augmentation.mixup, (0, 0, *plan.size))
        canvas.blend(partner, augmentation.mixup_share)
    pixels, target = canvas.pixels, canvas.target
    if augmentation.colors is not None:
        pixels = distort_colors(pixels, augmentation.colors)
    if augmentation.vertical_flip:
        pixels, target = pixels.flip(0), target.transpose(FLIP_TOP_BOTTOM)
    return pixels, target


def distort_colors(pixels: Tensor, colors: Colors) -> Tensor:
    """Change brightness, then contrast, saturation and hue of RGB pixels (H, W, 3), uint8 or float32 in 0 to 255.

    OpenCV's conversion to hue and saturation is used, because torchvision's takes ten times as long.
    """
    cv2, image = opencv(), pixels.numpy()
    if colors.brightness != 1 or colors.contrast != 1:
        grey = float(np.asarray(cv2.mean(image)[:3]) @ _GREY) * colors.brightness
        scale, shift = colors.brightness * colors.contrast, grey * (1 - colors.contrast)
        if image.dtype == np.uint8:
            image = cv2.LUT(image, np.clip(np.arange(256) * scale + shift + 0.5, 0, 255).astype(np.uint8))
        else:
            image = np.clip(image * np.float32(scale) + np.float32(shift), 0, 255)
    if colors.saturation != 1 or colors.hue != 0:
        # OpenCV's hue is in half degrees and the saturation in 0 to 255 for bytes; in degrees and 0 to 1 for floats.
        turn, full = (180, 255) if image.dtype == np.uint8 else (360, 1)
        hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        hue = np.mod(hue + np.float32(colors.hue * turn), turn).astype(image.dtype)
        saturation = np.minimum(saturation * np.float32(colors.saturation), full).astype(image.dtype)
        image = np.clip(cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB), 0, 255)
    return torch.from_numpy(image)


class _Canvas:
    """A picture in the making.

    Attributes:
        pixels: (H, W, 3), of the dtype that `resize` gives.
        target: the boxes on it, xyxy with the field "labels".
    """

    def __init__(
        self, size: tuple[int, int], resize: Resize, fill: tuple[float, float, float], continuous: bool
    ) -> None:
        self.size, self.resize = size, resize
        color = torch.tensor(fill)
        color = color if resize.dtype.is_floating_point else color.round().to(resize.dtype)
        # Row by row: to repeat three bytes for every pixel takes ten times as long.
        self.pixels = color.repeat(size[0]).repeat(size[1], 1).view(size[1], size[0], 3)
        self.target = BoxList(torch.zeros(0, 4), size, continuous=continuous)
        self.target.add_field("labels", torch.zeros(0, dtype=torch.int64))

    def lay(self, source: Source, tile: Tile, region: Rectangle, window: Window = _WHOLE) -> None:
        """Resize the `window` of an image as `tile` says and lay it into `region`; cut off what is outside."""
        image, target = source
        cut = _in_pixels(window, image.size)
        sides = cut[2] - cut[0], cut[3] - cut[1]
        # A window has another ratio of its sides than the image: it is scaled as far as it fits into the tile.
        size = tile.size if window is _WHOLE else scaled(sides, min(tile.size[0] / sides[0], tile.size[1] / sides[1]))
        (x1, x2), (left, right) = _overlap((cut[0], cut[2]), size[0], (region[0], region[2]), tile.place[0])
        (y1, y2), (top, bottom) = _overlap((cut[1], cut[3]), size[1], (region[1], region[3]), tile.place[1])
        self._paste(image, (x1, y1, x2, y2), (left, top, right, bottom))
        boxes = _moved(target, (x1, y1, x2, y2), (left, top, right, bottom), self.size)
        self.target = cat_boxlist([self.target, boxes])

    def copy_objects(self, source: Source, copies: Copies) -> None:
        """Lay the boxes `copies.boxes` of an image onto the canvas, each at the place that covers least of others."""
        image, target = source
        ratios = [new / old for new, old in zip(copies.size, image.size, strict=True)]
        for number, places in zip(copies.boxes, copies.places, strict=True):
            box = target[number]
            x1, y1, x2, y2 = box.convert("xyxy").with_pixels(continuous=True).bbox[0].tolist()
            cut = (math.floor(x1), math.floor(y1), min(math.ceil(x2), image.width), min(math.ceil(y2), image.height))
            width, height = (
                max(round(n * r), 1) for n, r in zip((cut[2] - cut[0], cut[3] - cut[1]), ratios, strict=True)
            )
            room = self.size[0] - width, self.size[1] - height
            if min(room) < 0:
                continue
            corners = torch.tensor(places) * torch.tensor(room)
            spots = torch.cat([corners, corners + torch.tensor([width, height])], dim=1).round()
            covered = _covered(self.target, spots)
            best = int(covered.sum(dim=0).argmin())
            left, top, right, bottom = (int(side) for side in spots[best].tolist())
            self._paste(image, cut, (left, top, right, bottom))
            moved = _moved(box, cut, (left, top, right, bottom), self.size)
            self.target = cat_boxlist([self.target[covered[:, best] <= _MOST_COVERED], moved])

    def blend(self, other: _Canvas, share: float) -> None:
        """Mix in another canvas, with weight 1 - `share`, and add its boxes."""
        mixed = torch.lerp(other.pixels.float(), self.pixels.float(), share)
        self.pixels = mixed if self.pixels.is_floating_point() else mixed.round_().to(torch.uint8)
        self.target = cat_boxlist([self.target, other.target])

    def _paste(self, image: Image.Image, source: Rectangle, onto: Rectangle) -> None:
        """Resize the part `source` of an image to the size of `onto` and lay it there."""
        left, top, right, bottom = onto
        part = image if source == (0, 0, *image.size) else image.crop(source)
        pixels = self.resize(torch.from_numpy(np.array(part)), (right - left, bottom - top))
        if onto == (0, 0, *self.size):
            self.pixels = pixels
        else:
            self.pixels[top:bottom, left:right] = pixels


def _regions(size: tuple[int, int], augmentation: Augmentation) -> list[Rectangle]:
    """Return the part of a canvas (width, height) that belongs to each tile; a part may be empty on a tiny canvas."""
    width, height = size
    if len(augmentation.tiles) == 1:
        return [(0, 0, width, height)]
    x, y = round(augmentation.center[0] * width), round(augmentation.center[1] * height)
    return [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]


def _crop_window(augmentation: Augmentation, target: BoxList) -> Window:
    """Return the first window in which the center of a box lies that has `least_iou` with it; else the whole image."""
    if not augmentation.windows or not len(target):
        return _WHOLE
    boxes = target.convert("xyxy").with_pixels(continuous=True).bbox
    windows = torch.tensor(augmentation.windows) * torch.tensor([*target.size, *target.size])
    centers = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    inside = ((centers > windows[:, :2]) & (centers < windows[:, 2:])).all(dim=2)
    fits = (inside & (box_iou(boxes, windows) >= augmentation.least_iou)).any(dim=0)
    return augmentation.windows[int(fits.int().argmax())] if fits.any() else _WHOLE


def _in_pixels(window: Window, size: tuple[int, int]) -> Rectangle:
    """Round the sides of a window to pixels of an image of this (width, height)."""
    left, top = (min(round(share * side), side - 1) for share, side in zip(window[:2], size, strict=True))
    right, bottom = (round(share * side) for share, side in zip(window[2:], size, strict=True))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _overlap(
    source: tuple[int, int], length: int, region: tuple[int, int], place: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the pixels of `source` that a canvas shows, and where, on one axis; each as (first, last + 1).

    Args:
        source: part of the image.
        length: pixels that this part is resized to.
        region: of the canvas.
        place: share of the free room that is before the part; for a part larger than the region, share of the pixels to
            cut that are cut before it.
    """
    start = region[0] + round(place * (region[1] - region[0] - length))
    first, last = max(start, region[0]), min(start + length, region[1])
    ratio = (source[1] - source[0]) / length
    begin = min(source[0] + round((first - start) * ratio), source[1] - 1)
    end = max(source[0] + round((last - start) * ratio), begin + 1)
    return (begin, end), (first, last)


def _moved(target: BoxList, source: Rectangle, onto: Rectangle, size: tuple[int, int]) -> BoxList:
    """Return the boxes on a canvas of this (width, height) onto which the part `source` of their image is laid."""
    ratios = [(onto[i + 2] - onto[i]) / (source[i + 2] - source[i]) for i in range(2)]
    boxes = target.convert("xyxy").bbox
    boxes = (boxes - boxes.new_tensor(source[:2] * 2)) * boxes.new_tensor(ratios * 2) + boxes.new_tensor(onto[:2] * 2)
    moved = BoxList(boxes, size, continuous=target.continuous)
    moved.add_field("labels", target.get_field("labels"))
    areas = moved.area()
    last = 0 if target.continuous else 1
    for axis in range(2):
        moved.bbox[:, axis::2] = moved.bbox[:, axis::2].clamp(onto[axis], onto[axis + 2] - last)
    sides = moved.convert("xywh").bbox[:, 2:]
    return moved[(moved.area() >= _LEAST_SHARE * areas) & (sides >= _LEAST_SIDE).all(dim=1)]


def _covered(target: BoxList, spots: Tensor) -> Tensor:
    """Return (N, P) shares of the areas of N boxes that P spots (P, 4), continuous pixels, cover."""
    boxes = target.with_pixels(continuous=True)
    first = torch.maximum(boxes.bbox[:, None, :2], spots[:, :2])
    last = torch.minimum(boxes.bbox[:, None, 2:], spots[:, 2:])
    return (last - first).clamp(min=0).prod(dim=2) / boxes.area()[:, None]
