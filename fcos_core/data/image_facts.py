"""Decode many image files at once, and find damaged, turned and repeated ones."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fcos_core.data.image_file import MAX_PIXELS, UnreadableImageError, read_image, read_orientation
from fcos_core.utils.progress import progress

# Columns and rows of the grid whose neighbours are compared for `ImageFacts.look`.
_GRID = 16


@dataclass(frozen=True)
class ImageFacts:
    """Size, orientation and fingerprints of an image file.

    Attributes:
        upright: (width, height) as viewers show it, turned by EXIF.
        orientation: EXIF orientation, 1 to 8.
        digest: hash of the file's content.
        look: (32,) uint8, 256 bits, each of which says if a cell of a small grey copy is brighter than its neighbour;
            they hardly change when an image is resized or compressed again. No bit is set in a flat image.
    """

    upright: tuple[int, int]
    orientation: int
    digest: bytes
    look: np.ndarray

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) of the pixels in the file."""
        return self.upright[::-1] if self.orientation >= 5 else self.upright


def read_facts(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Decode an image file; raise UnreadableImageError if that is not possible."""
    image = read_image(path, max_pixels=max_pixels)
    grey = np.asarray(image.convert("L").resize((_GRID + 1, _GRID), Image.Resampling.BOX))
    look = np.packbits(grey[:, 1:] > grey[:, :-1])
    digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    return ImageFacts(image.size, read_orientation(path), digest, look)


def read_all_facts(
    paths: Sequence[str | os.PathLike[str]], work: str, max_pixels: int = MAX_PIXELS
) -> Iterator[ImageFacts | UnreadableImageError]:
    """Yield the facts of each file, or why it cannot be read, in the order of `paths`.

    Args:
        paths: image files.
        work: its name, for the progress bar.
        max_pixels: width times height of the largest image to decode (INPUT.MAX_PIXELS).
    """

    def read(path: str | os.PathLike[str]) -> ImageFacts | UnreadableImageError:
        try:
            return read_facts(path, max_pixels)
        except UnreadableImageError as error:
            return error

    # PIL decodes outside of Python's lock.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            yield from progress(pool.map(read, paths), len(paths), work)
        finally:  # on Ctrl-C nothing waits for the rest
            pool.shutdown(wait=False, cancel_futures=True)
