"""Read image files of any kind as 8-bit RGB images."""

import contextlib
import functools
import os
import stat
import threading
from collections.abc import Iterator

from PIL import ExifTags, Image, UnidentifiedImageError

from fcos_core.data.json_stream import other_kind
from fcos_core.data.pixels import UnreadableImageError, to_rgb
from fcos_core.data.png_file import without_metadata
from fcos_core.errors import InputError

__all__ = ["MAX_PIXELS", "UnreadableImageError", "read_image", "to_rgb"]

# Default of INPUT.MAX_PIXELS: twice what Pillow warns about, that is, as much as Pillow itself accepts.
MAX_PIXELS = 178_956_970
# Pillow takes memory for the frame of a GIF before it tells the image's size; it refuses one of twice this many pixels.
_MAX_PART = 1 << 28
# Formats that hold nothing but a raster. For others, such as EPS, PIL starts another program that interprets the file.
FORMATS = (
    *("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF"),
    *("DIB", "PCX", "QOI", "SUN", "TGA"),
)
# Endings of their files' names.
ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff")
    + (".webp", ".jp2", ".j2k", ".avif", ".pcx", ".qoi", ".ras", ".tga")
)
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
_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


def read_image(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Read `path` as RGB, 8 bits a channel; see `to_rgb` for the conversion.

    Without `size` the EXIF orientation is applied, as image viewers do. With `size` the orientation is applied
    only where the stored image has another size and the turned image has `size`, because many annotation tools
    ignore EXIF. Both limits are compared with the file's header, before memory is taken and pixels are decoded.

    Args:
        path: a file in one of `FORMATS`.
        size: (width, height) in pixels that the annotation gives.
        max_pixels: width times height of the largest image to decode (INPUT.MAX_PIXELS).

    Raises:
        UnreadableImageError: the file cannot be opened or decoded, or has more than `max_pixels`.
        InputError: the image has another size than `size`.
    """
    name = f"The image '{path}' (looked at {os.path.abspath(path)})"
    try:
        _check_is_file(path, name)
        with _pillow_limit(max(max_pixels, _MAX_PART)), _open(path) as file:
            _check_size(path, file.size, size, turned=True)
            _check_pixels(name, file.size, max_pixels)
            image = to_rgb(file, name)
            # Decoding comes first, because PIL turns a TIFF while it decodes and then removes the tag.
            transposition = _transposition(file)
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        fault, remedy = _unidentified(path)
        raise UnreadableImageError(f"{name} cannot be read: {fault}", remedy) from error
    except Image.DecompressionBombError as error:
        fault = f"it, or a part of it, has more pixels than INPUT.MAX_PIXELS {max_pixels}"
        remedy = "if that is its true size, set INPUT.MAX_PIXELS to its width times its height"
        raise UnreadableImageError(f"{name} cannot be read: {fault}", remedy) from error
    # PIL's readers raise errors of many types on damaged files.
    except Exception as error:
        fault, remedy = str(error).rstrip("."), "copy it again"
        if isinstance(error, OSError) and error.strerror:  # from the system, which could not open the file
            fault, remedy = error.strerror, "check its path, its permissions and the disk"
        raise UnreadableImageError(f"{name} cannot be read: {fault}", remedy) from error
    if transposition is not None and image.size != size:
        upright = image.transpose(transposition)
        if size is None or upright.size == size:
            image = upright
    _check_size(path, image.size, size)
    return image


def read_orientation(path: str | os.PathLike[str]) -> int:
    """Return the EXIF orientation, 1 to 8, of an image that `read_image` can read; 1 if it has none."""
    with _open(path) as file:
        # PIL itself turns a TIFF upright.
        transposition = None if file.format == "TIFF" else _transposition(file)
    return next((number for number, turn in _TRANSPOSITIONS.items() if turn == transposition), 1)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this installation of PIL can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(path: str | os.PathLike[str]) -> Image.Image:
    try:
        return Image.open(path, formats=_formats())
    except (UnidentifiedImageError, ValueError):
        # PIL refuses a PNG for its metadata too, such as a wrong checksum of EXIF or a text above PIL's limit.
        pixels = without_metadata(path)
        if pixels is None:
            raise
        return Image.open(pixels, formats=("PNG",))


def _unidentified(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return what is wrong with a file that is no image for PIL, and the remedy."""
    if kind := other_kind(os.fspath(path)):
        fault, _, remedy = kind.partition(": ")
        return f"it {fault}", remedy
    kinds = ", ".join(_formats())
    fault = f"it is damaged, or of none of the kinds that are read ({kinds}), or its pixels are such as PIL cannot read"
    return fault, "copy it again or convert it to 8 bits a channel"


def _check_is_file(path: str | os.PathLike[str], name: str) -> None:
    # Opening a pipe would wait for somebody to write to it.
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        fault = f"it is a {_KINDS.get(kind, 'device')}, not a file"
        raise UnreadableImageError(f"{name} cannot be read: {fault}", "give the path of a file")


def _check_size(
    path: str | os.PathLike[str], found: tuple[int, int], wanted: tuple[int, int] | None, turned: bool = False
) -> None:
    """Raise InputError if the image has another size than its annotation; with `turned` it may lie on its side."""
    if wanted is None or found == wanted or (turned and found == wanted[::-1]):
        return
    raise InputError(
        f"The image '{path}' is {found[0]}x{found[1]} (width x height) but its annotation says "
        f"{wanted[0]}x{wanted[1]}: correct the annotation's width and height or restore the image."
    )


def _check_pixels(name: str, size: tuple[int, int], max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise UnreadableImageError(
            f"{name} cannot be read: it has {size[0]}x{size[1]} pixels, more than INPUT.MAX_PIXELS {max_pixels}",
            f"if that is its true size, set INPUT.MAX_PIXELS {pixels}",
        )


def _transposition(file: Image.Image) -> Image.Transpose | None:
    """Return what shows the picture upright; None without an EXIF tag, and where EXIF is damaged."""
    try:
        return _TRANSPOSITIONS.get(file.getexif().get(ExifTags.Base.Orientation, 1))
    # PIL's parsers of metadata raise errors of many types; the pixels are whole.
    except Exception:
        return None


class _Readers:
    """Threads that read an image now, and the limit that PIL had before the first of them."""

    lock = threading.Lock()
    count = 0
    limit: int | None = None


@contextlib.contextmanager
def _pillow_limit(pixels: int) -> Iterator[None]:
    """Replace PIL's own limit, which is one number for the whole program, because `_check_pixels` takes its place.

    Without any limit PIL would take as much memory as the frame of a GIF or the tile of a TIFF asks for.
    """
    with _Readers.lock:
        if _Readers.count == 0:
            _Readers.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        Image.MAX_IMAGE_PIXELS = max(pixels, Image.MAX_IMAGE_PIXELS or 0)
        _Readers.count += 1
    try:
        yield
    finally:
        with _Readers.lock:
            _Readers.count -= 1
            if _Readers.count == 0:
                Image.MAX_IMAGE_PIXELS = _Readers.limit
