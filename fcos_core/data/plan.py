"""Plan of a batch: every random choice about its images, made before a pixel is read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fcos_core.data.resize import FCOS_RESIZE, Resize

# (left, top, right, bottom), each a share of the image's width or height.
Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tile:
    """One image and where it goes on a canvas or on a quarter of it.

    Attributes:
        index: of the image in the dataset.
        size: (width, height) in pixels that the whole image is resized to.
        factor: of large-scale jitter and zoom-out, which `size` has in it; an image that replaces this one takes it.
        place: share, on each axis, of the free room that is left of the tile or above it; for a tile larger than its
            room, share of the pixels to cut that are cut on the left or at the top.
    """

    index: int
    size: tuple[int, int]
    factor: float
    place: tuple[float, float]

    def with_image(self, index: int, size: tuple[int, int]) -> Tile:
        """Return the same for another image, which is resized to `size` (width, height) without the factor."""
        return replace(self, index=index, size=scaled(size, self.factor))


@dataclass(frozen=True)
class Copies:
    """Objects to copy from another image.

    Attributes:
        index: of that image in the dataset.
        size: (width, height) in pixels that it is resized to.
        boxes: numbers of its boxes in the dataset's ground truth.
        places: for each box candidate places, shares of the room on each axis.
    """

    index: int
    size: tuple[int, int]
    boxes: tuple[int, ...]
    places: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Colors:
    """Photometric distortion.

    Attributes:
        brightness: factor of all channels.
        contrast: factor of the distances from the mean grey.
        saturation: factor of the saturation.
        hue: shift, in turns of the color circle.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """Changes of an image beside resizing and the horizontal flip; see `data.augment`.

    Attributes:
        tiles: the image itself; or the four of a mosaic, row by row, the image itself first.
        fill: color of the canvas where no tile lies, RGB in 0 to 255.
        center: where the tiles of a mosaic meet, shares of the canvas's width and height.
        windows: candidate windows of an IoU crop; empty: no crop.
        least_iou: with a box, that the window to crop must have.
        copies: objects to copy in.
        mixup: the partner that is blended with the canvas.
        mixup_share: weight of the canvas in the blend.
        colors: photometric distortion.
        vertical_flip: mirror from top to bottom.
    """

    tiles: tuple[Tile, ...]
    fill: tuple[float, float, float]
    center: tuple[float, float] = (0.5, 0.5)
    windows: tuple[Window, ...] = ()
    least_iou: float = 0.0
    copies: Copies | None = None
    mixup: Tile | None = None
    mixup_share: float = 0.5
    colors: Colors | None = None
    vertical_flip: bool = False

    def with_image(self, index: int, size: tuple[int, int]) -> Augmentation:
        """Return the same for another image, which is resized to `size` (width, height) without a factor."""
        return replace(self, tiles=(self.tiles[0].with_image(index, size), *self.tiles[1:]))


@dataclass(frozen=True)
class SamplePlan:
    """One image of a batch and how to transform it.

    Attributes:
        index: of the image in the dataset.
        size: (width, height) in pixels that the image is resized to; the size of the canvas, if it is augmented.
        flip: True if the resized image is mirrored from left to right.
        min_size: drawn shorter side that `size` follows from; an image that replaces this one is resized by it.
        resize: resizes the pixels.
        augmentation: None: resize and flip alone.
    """

    index: int
    size: tuple[int, int]
    flip: bool
    min_size: int
    resize: Resize = FCOS_RESIZE
    augmentation: Augmentation | None = None


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
    views: tuple[BatchPlan, ...] = ()


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return `size` times `factor`, rounded, at least 1 on each axis."""
    width, height = (max(round(side * factor), 1) for side in size)
    return width, height
