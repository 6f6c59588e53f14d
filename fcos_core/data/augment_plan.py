"""Draw augmentations: every random choice follows from (seed, iteration, slot) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fcos_core.data.concat import AnyDataset, ConcatCOCODataset
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.data.plan import Augmentation, Colors, Copies, Tile, Window, scaled
from fcos_core.errors import InputError
from fcos_core.utils.progress import progress

# Last word of every seed, one for each kind of augmentation, so that switching one on or off leaves the others' draws
# as they are: runs that differ in one key see the same images otherwise.
_SCALE, _ZOOM_OUT, _IOU_CROP, _COLORS, _MOSAIC, _MIXUP, _COPIES, _FLIP = range(8)
_NO_JITTER = (1.0, 1.0)

# SSD, section 2.2, and its published code: windows of 0.3 to 1 of the sides and 0.5 to 2 of the ratio of the sides.
_WINDOWS = 40
_LEAST_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_LEAST_SIDE = 0.3
# The tiles of a mosaic meet in the middle half of the canvas, so that each gets a 16th of it or more.
_CENTER = (0.25, 0.75)
# Beta distribution of the blend's weights: within 0.25 to 0.75 in 97 of 100 draws. The boxes of both images count in
# full, so neither image may vanish.
_MIXUP_BETA = 8.0
# Objects that are copied into one image, and places that are tried for each.
_MOST_COPIES, _PLACES = 4, 8
# SSD's published distortion; each of the four kinds comes with probability 1/2.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = (0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05)

# From a dataset index and the drawn shorter side to the (width, height) that the image is resized to.
SizeOf = Callable[[int, int], tuple[int, int]]
Range = tuple[float, float]


@dataclass(frozen=True)
class RareObjects:
    """Where the objects of rare classes are: those whose number of boxes is below the mean over the classes.

    Attributes:
        images: for each rare class the dataset indices of the images that show it.
        boxes: dataset index to the numbers of the image's boxes of rare classes.
    """

    images: tuple[np.ndarray, ...]
    boxes: dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class Augmenter:
    """Draws the augmentation of an image; the arguments are the keys of INPUT.AUG, see config/defaults.py.

    Attributes:
        num_images: images of the dataset.
        fill: color of the parts that no image covers, RGB in 0 to 255; the mean color, which normalization
            maps to 0, the value of a batch's padding.
        mosaic_until: last iteration with mosaics and mixup.
        rare: the objects to copy, for `copy_rare_prob`.
    """

    num_images: int
    fill: tuple[float, float, float]
    vertical_flip_prob: float = 0.0
    scale_range: Range = _NO_JITTER
    zoom_out_prob: float = 0.0
    zoom_out_max: float = 4.0
    iou_crop_prob: float = 0.0
    photometric_prob: float = 0.0
    mosaic_prob: float = 0.0
    mixup_prob: float = 0.0
    copy_rare_prob: float = 0.0
    mosaic_until: float = float("inf")
    rare: RareObjects | None = None

    def draw(
        self, seed: Sequence[int], iteration: int, index: int, min_size: int, size_of: SizeOf
    ) -> Augmentation | None:
        """Draw for image `index`; None: the image is not augmented.

        Args:
            seed: of this image of this batch.
            iteration: 1-based.
            index: in the dataset.
            min_size: shorter side that was drawn; other images that come into the picture are resized by it too.
            size_of: computes resized sizes.
        """
        chance = [np.random.default_rng((*seed, kind)) for kind in range(8)]

        def happens(kind: int, probability: float) -> bool:
            return bool(chance[kind].random() < probability)

        def tile(kind: int, index: int, shrink: float = 1.0) -> Tile:
            factor = float(chance[kind].uniform(*self.scale_range)) * shrink
            return Tile(index, scaled(size_of(index, min_size), factor), factor, _pair(chance[kind]))

        mixes = iteration <= self.mosaic_until
        mosaic = happens(_MOSAIC, self.mosaic_prob) and mixes
        others = chance[_MOSAIC].integers(self.num_images, size=3).tolist() if mosaic else []
        zooms = happens(_ZOOM_OUT, self.zoom_out_prob) and not mosaic
        shrink = 1 / float(chance[_ZOOM_OUT].uniform(1, self.zoom_out_max)) if zooms else 1.0
        tiles = (tile(_SCALE, index, shrink), *(tile(_MOSAIC, other) for other in others))
        crops = happens(_IOU_CROP, self.iou_crop_prob) and not mosaic
        mixup = happens(_MIXUP, self.mixup_prob) and mixes
        augmentation = Augmentation(
            tiles,
            self.fill,
            center=_pair(chance[_MOSAIC], *_CENTER) if mosaic else (0.5, 0.5),
            windows=_windows(chance[_IOU_CROP]) if crops else (),
            least_iou=_LEAST_IOUS[int(chance[_IOU_CROP].integers(len(_LEAST_IOUS)))] if crops else 0.0,
            copies=self._copies(chance[_COPIES], min_size, size_of) if happens(_COPIES, self.copy_rare_prob) else None,
            mixup=tile(_MIXUP, int(chance[_MIXUP].integers(self.num_images))) if mixup else None,
            mixup_share=float(chance[_MIXUP].beta(_MIXUP_BETA, _MIXUP_BETA)) if mixup else 0.5,
            colors=_colors(chance[_COLORS]) if happens(_COLORS, self.photometric_prob) else None,
            vertical_flip=happens(_FLIP, self.vertical_flip_prob),
        )
        plain = Augmentation((Tile(index, tiles[0].size, 1.0, tiles[0].place),), self.fill)
        return None if augmentation == plain else augmentation

    def _copies(self, rng: np.random.Generator, min_size: int, size_of: SizeOf) -> Copies | None:
        """Draw a rare class, an image that shows it, and objects of rare classes of that image."""
        if self.rare is None or not self.rare.images:
            return None
        images = self.rare.images[int(rng.integers(len(self.rare.images)))]
        index = int(images[int(rng.integers(len(images)))])
        boxes = rng.permutation(np.array(self.rare.boxes[index]))[:_MOST_COPIES].tolist()
        places = tuple(tuple(_pair(rng) for _ in range(_PLACES)) for _ in boxes)
        return Copies(index, size_of(index, min_size), tuple(boxes), places)


def find_rare_objects(dataset: AnyDataset) -> RareObjects:
    """Find the objects of classes with fewer boxes than the mean over the classes that have any.

    Raises:
        InputError: an `OwnDataset` is in the dataset, which may have to read every image to know the boxes.
    """
    parts = dataset.datasets if isinstance(dataset, ConcatCOCODataset) else [dataset]
    for part in parts:
        if isinstance(part, OwnDataset):
            raise InputError(
                f"INPUT.AUG.COPY_RARE_PROB needs the classes of all images before any is read, which the dataset class "
                f"{part.ann_file} does not give: set it to 0, or describe the data by a COCO annotation file."
            )
    images = progress(range(len(dataset)), len(dataset), "Looking for rare classes")
    labels = [dataset.ground_truth(index).get_field("labels").numpy() for index in images]
    classes, counts = np.unique(np.concatenate(labels), return_counts=True)
    rare = classes[counts < counts.mean()] if len(counts) else classes
    boxes: dict[int, tuple[int, ...]] = {}
    showing: dict[int, list[int]] = {label: [] for label in rare.tolist()}
    for index, own in enumerate(labels):
        rows = np.flatnonzero(np.isin(own, rare))
        if len(rows):
            boxes[index] = tuple(rows.tolist())
        for label in np.unique(own[rows]).tolist():
            showing[label].append(index)
    return RareObjects(tuple(map(np.array, showing.values())), boxes)


def _pair(rng: np.random.Generator, low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    first, second = rng.uniform(low, high, 2).tolist()
    return first, second


def _windows(rng: np.random.Generator) -> tuple[Window, ...]:
    """Draw windows of any place, none longer than twice its other side as shares of the image's sides."""
    width = rng.uniform(_LEAST_SIDE, 1, _WINDOWS)
    height = rng.uniform(np.maximum(width / 2, _LEAST_SIDE), np.minimum(width * 2, 1))
    left, top = rng.random((2, _WINDOWS)) * (1 - width, 1 - height)
    return tuple(map(tuple, np.stack([left, top, left + width, top + height], axis=1).tolist()))


def _colors(rng: np.random.Generator) -> Colors:
    used = rng.random(4) < 0.5
    values = [rng.uniform(*limits) for limits in (_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE)]
    return Colors(*(float(v) if u else n for v, u, n in zip(values, used, (1.0, 1.0, 1.0, 0.0), strict=True)))
