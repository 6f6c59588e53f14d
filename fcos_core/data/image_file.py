"""An image file as an 8-bit RGB image of the size that its annotation gives."""

import os

import numpy as np
from PIL import ExifTags, Image, ImageChops

from fcos_core.errors import InputError

# EXIF orientations that swap width and height, and what undoes them.
_QUARTER_TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(InputError):
    """An image file that is missing, not an image, or cut short."""


def read_image(path: str, size: tuple[int, int]) -> Image.Image:
    """Read `path` as RGB, 8 bits a channel.

    Grey, palette and CMYK images are converted, transparency is dropped, of 16 bits the upper 8 are kept. The
    EXIF rotation is applied only when that, and nothing less, gives the annotation's size.

    Args:
        path: anything PIL can open, such as JPEG and PNG.
        size: (width, height) in pixels that the annotation gives.

    Raises:
        UnreadableImageError: the file cannot be opened or decoded.
        InputError: the image has another size than `size`.
    """
    try:
        with Image.open(path) as file:
            turn = _QUARTER_TURNS.get(file.getexif().get(ExifTags.Base.Orientation))
            image = _to_rgb(file)
    # PIL's decoders raise errors of many types on damaged files.
    except Exception as error:
        raise UnreadableImageError(
            f"The image '{path}' (looked at {os.path.abspath(path)}) cannot be read: {error}. "
            "Copy it again, take it out of the annotations or set DATALOADER.SKIP_UNREADABLE True."
        ) from error
    if turn is not None and image.size != size and image.size[::-1] == size:
        image = image.transpose(turn)
    if image.size != size:
        raise InputError(
            f"The image '{path}' is {image.size[0]}x{image.size[1]} (width x height) but its annotation says "
            f"{size[0]}x{size[1]}: correct the annotation's width and height or restore the image."
        )
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # PIL takes every CMYK JPEG for inverted, as Adobe writes them; one without Adobe's mark is not.
        return ImageChops.invert(image).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
