"""Read image files of any kind as 8-bit RGB images."""

import os

import numpy as np
from PIL import ExifTags, Image, ImageChops

from fcos_core.errors import InputError

# EXIF orientation to the transposition that shows the picture upright.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(InputError):
    """An image file is missing, is not an image or is cut short."""


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Image.Image:
    """Read `path` as RGB, 8 bits a channel; see `to_rgb` for the conversion.

    Without `size` the EXIF orientation is applied, as image viewers do. With `size` the orientation is applied
    only where the stored image has another size and the turned image has `size`, because many annotation tools
    ignore EXIF.

    Args:
        path: a file that PIL can open, such as JPEG or PNG.
        size: (width, height) in pixels that the annotation gives.

    Raises:
        UnreadableImageError: the file cannot be opened or decoded.
        InputError: the image has another size than `size`.
    """
    try:
        with Image.open(path) as file:
            image = to_rgb(file)
            # Decoding comes first, because PIL turns a TIFF while it decodes and then removes the tag.
            transposition = _TRANSPOSITIONS.get(file.getexif().get(ExifTags.Base.Orientation, 1))
    # PIL's decoders raise errors of many types on damaged files.
    except Exception as error:
        raise UnreadableImageError(
            f"The image '{path}' (looked at {os.path.abspath(path)}) cannot be read: {error}."
        ) from error
    if transposition is not None and image.size != size:
        upright = image.transpose(transposition)
        if size is None or upright.size == size:
            image = upright
    if size is not None and image.size != size:
        raise InputError(
            f"The image '{path}' is {image.size[0]}x{image.size[1]} (width x height) but its annotation says "
            f"{size[0]}x{size[1]}: correct the annotation's width and height or restore the image."
        )
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert `image`, in any mode of PIL, to RGB with 8 bits a channel.

    Transparency is dropped. Of 16 bits the upper 8 are kept.
    """
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # PIL inverts every CMYK JPEG because Adobe writes them inverted; a file without Adobe's mark is not inverted.
        return ImageChops.invert(image).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
