"""Bring pixels of every kind to 8-bit RGB, and refuse those whose black and white nobody states."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageChops

from fcos_core.data.png_file import chunks
from fcos_core.errors import InputError

# Tags of TIFF 6.0, sections 3, 8 and 19.
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _PLANAR_CONFIGURATION = 258, 259, 262, 284
_COLOR_MAP, _SAMPLE_FORMAT = 320, 339
_DARKEST_AND_BRIGHTEST = ((340, 341), (280, 281))  # SMinSampleValue, SMaxSampleValue; MinSampleValue, MaxSampleValue
# Where the headers of JPEG 2000 and AVIF give the bits of a channel: a mark, the byte's distance from it, the
# bits of that byte that count, and their highest value for 8 bits.
_PLACES_OF_BITS = {"JPEG2000": (b"\xff\x4f\xff\x51", 42, 0x7F, 7), "AVIF": (b"av1C", 6, 0x40, 0)}
_HEADER = 1 << 12  # bytes in which they stand
_SIXTEEN_BITS = 0xFFFF
# Values of 16 bits that are all below this have 12 bits or fewer; their upper 8 bits are black, or nearly so.
_TWELVE_BITS = 1 << 12
_CONVERT = "convert it to 8 bits a channel"
_CONVERT_OR_TAG = f"{_CONVERT}, or write black and white into the tags SMinSampleValue and SMaxSampleValue of a TIFF"


class UnreadableImageError(InputError):
    """An image is missing, damaged, too large, or has pixels that cannot be brought to 8 bits.

    Args:
        fault: what is wrong with which image.
        remedy: what to do, in lower case.
    """

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(fault, remedy)
        self.fault, self.remedy = fault, remedy

    def __str__(self) -> str:
        return f"{self.fault}: {self.remedy}."


def to_rgb(image: Image.Image, name: str = "The PIL image") -> Image.Image:
    """Convert `image`, in any mode of PIL, to RGB with 8 bits a channel.

    An RGB image is returned itself, decoded. Transparency is dropped. Of 16 bits the upper 8 are kept, unless the file
    says that fewer bits are in use: by BitsPerSample or MaxSampleValue in a TIFF, by sBIT in a PNG. Signed integers,
    integers of 32 bits and floats are scaled from the darkest and the brightest value that a TIFF's tags give.

    Args:
        image: opened or in memory.
        name: stands for the image in an error.

    Raises:
        UnreadableImageError: the image has no pixels or cannot be decoded; nothing says which values are black and
            white; or values are outside of what the file says.
    """
    try:
        if 0 in image.size:
            raise _refusal("it has no pixels", "give an image with pixels")
        return _to_rgb(image)
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{name} cannot be read: {error.fault}", error.remedy) from error
    except MemoryError:
        raise
    # PIL's decoders raise errors of many types on damaged files.
    except Exception as error:
        raise UnreadableImageError(f"{name} cannot be read: {str(error).rstrip('.')}", "copy it again") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I") or (image.mode == "L" and _sample_format(image) == 2):
        return Image.fromarray(_grey_levels(image)).convert("RGB")
    _check_sixteen_bit_channels(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # PIL inverts every CMYK JPEG because Adobe writes them inverted; a file without Adobe's mark is not inverted.
        return ImageChops.invert(image).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "La":  # PIL converts it to LA alone
        image = image.convert("LA")
    if image.mode == "RGB":
        image.load()  # `convert` would copy the pixels, which takes as long as it takes to decode a JPEG
        return image
    return image.convert("RGB")


def _grey_levels(image: Image.Image) -> np.ndarray:
    """Return the grey levels, (H, W) uint8, of an image with one channel of more than 8 bits or with a sign."""
    # Some versions of PIL hold 16 bits of a PNG or PGM in 32.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    levels = _from_sixteen_bits(image) if sixteen else _from_stated_range(image)
    # PIL turns "white is zero" around in 8 bits alone.
    return 255 - levels if _tags(image).get(_PHOTOMETRIC) == 0 else levels


def _from_sixteen_bits(image: Image.Image) -> np.ndarray:
    significant = _significant_bits_of_png(image)  # before PIL decodes and closes the file
    values = np.asarray(image)
    top = int(values.max())
    bits = min(int(bits) for bits in (16, *_values(image, _BITS_PER_SAMPLE)[:1]))
    if stated := _stated_range(image):
        # A statistic, such as 4021, stands for the bits in use: the images of a dataset then keep one scale.
        bits = min(bits, int(stated[1]).bit_length())
    elif significant and top < 1 << significant and (values & ((1 << (16 - significant)) - 1)).any():
        # PNG's specification moves significant bits to the top; where lower bits are set, the writer did not.
        bits = significant
    white = (1 << max(bits, 1)) - 1
    if top > white:
        raise _refusal(f"its values go up to {top} but it says that {white} is white")
    if white == _SIXTEEN_BITS:
        if 0 < top < _TWELVE_BITS:
            raise _refusal(f"it has 16 bits but no value above {top} of {white}, so it would be black or nearly black")
        return (values >> 8).astype(np.uint8)
    return _scaled(values, 0, white)


def _from_stated_range(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if image.mode == "L":
        values = values.view(np.int8)
    elif image.mode == "I" and _sample_format(image) == 1 and _values(image, _BITS_PER_SAMPLE)[:1] == [32]:
        values = values.view(np.uint32)
    kind = "32-bit floats" if image.mode == "F" else "integers with a sign or of 32 bits"
    stated = _stated_range(image)
    if stated is None:
        raise _refusal(f"its pixels are {kind} and nothing says which values are black and white", _CONVERT_OR_TAG)
    black, white = stated
    lowest, highest = float(values.min()), float(values.max())
    if not black <= lowest <= highest <= white:  # NaN is outside too
        raise _refusal(f"its values {lowest:g} to {highest:g} pass the {black:g} to {white:g} that its tags give")
    return _scaled(values, black, white)


def _scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    levels = (values.astype(np.float64) - black) * (255 / (white - black))
    rounded: np.ndarray = np.rint(levels).astype(np.uint8)
    return rounded


def _check_sixteen_bit_channels(image: Image.Image) -> None:
    """Refuse a picture of several channels of 9 to 16 bits, of which PIL keeps the upper 8, if little is left of it."""
    if image.mode in ("P", "PA") and 0 < max(_values(image, _COLOR_MAP), default=0) <= 255:
        raise _refusal("its colour map has 16 bits but no value above 255 of 65535, so it would be black")
    if not _has_more_bits(image):
        return
    if _tags(image).get(_PLANAR_CONFIGURATION) == 2 and _tags(image).get(_COMPRESSION, 1) == 1:
        raise _refusal("PIL cannot decode 16 bits a channel where each channel is stored apart and uncompressed")
    stated = _stated_range(image)
    extrema: Any = image.getextrema()
    channels = zip(image.getbands(), extrema, strict=True) if len(image.getbands()) > 1 else ()
    highest = max((high for name, (_, high) in channels if name not in ("A", "a", "X")), default=255)
    # Lossy compression can take the highest value a little further.
    if highest <= _TWELVE_BITS >> 8 or (stated is not None and stated[1] <= _SIXTEEN_BITS >> 1):
        raise _refusal(
            "it has more than 8 bits a channel but no value above a sixteenth of white, or its tags say that fewer "
            "bits are in use, so it would be black or dark"
        )


def _has_more_bits(image: Image.Image) -> bool:
    """Return True if the file has more than the 8 bits a channel that PIL gives."""
    if 16 in _values(image, _BITS_PER_SAMPLE) or _has_more_bits_by_header(image):
        return True
    # What PIL is going to decode: a name of the stored layout such as RGB;16B, and for PPM the stored maximum.
    arguments = [argument for tile in getattr(image, "tile", ()) for argument in np.ravel(np.array(tile[3], object))]
    is_ppm = image.format == "PPM"
    return any(";16" in a if isinstance(a, str) else is_ppm and a == _SIXTEEN_BITS for a in arguments)


def _has_more_bits_by_header(image: Image.Image) -> bool:
    file = getattr(image, "fp", None)
    if image.format not in _PLACES_OF_BITS or file is None:
        return False
    mark, distance, mask, most = _PLACES_OF_BITS[image.format]
    position = file.tell()
    file.seek(0)
    head = file.read(_HEADER)
    file.seek(position)
    place = head.find(mark) + distance
    return mark in head and place < len(head) and head[place] & mask > most


def _tags(image: Image.Image) -> Any:
    """Return the tags of a TIFF by number; nothing for other images."""
    return getattr(image, "tag_v2", {})


def _values(image: Image.Image, tag: int) -> list[Any]:
    """Return the numbers of a TIFF's tag, one a channel or one for all; [] without the tag."""
    found = _tags(image).get(tag, ())
    return list(found) if isinstance(found, tuple) else [found]


def _sample_format(image: Image.Image) -> int:
    """Return 1 for unsigned integers, 2 for signed ones, 3 for floats; unsigned is TIFF's default."""
    return int((_values(image, _SAMPLE_FORMAT) or [1])[0])


def _stated_range(image: Image.Image) -> tuple[float, float] | None:
    """Return the values of black and white that a TIFF's tags give, black being 0 if left out; None without tags."""
    for darkest, brightest in _DARKEST_AND_BRIGHTEST:
        if white := _values(image, brightest):
            black = float((_values(image, darkest) or [0])[0])
            if not black < float(white[0]) < float("inf"):
                raise _refusal(f"its tags say that {black:g} is black and {float(white[0]):g} is white")
            return black, float(white[0])
    return None


def _significant_bits_of_png(image: Image.Image) -> int:
    """Return the bits of the first channel that the chunk sBIT gives; 0 without it."""
    file = getattr(image, "fp", None)
    if image.format != "PNG" or file is None:
        return 0
    position = file.tell()
    file.seek(8)
    bits = 0
    for name, _, _ in chunks(file):
        if name == b"sBIT":
            bits = file.read(1)[0]
        if name in (b"sBIT", b"IDAT"):
            break
    file.seek(position)
    return bits if 1 <= bits <= 16 else 0


def _refusal(fault: str, remedy: str = _CONVERT) -> UnreadableImageError:
    return UnreadableImageError(fault, remedy)
