"""Test that image files of every kind become RGB images of the annotated size, or raise an error with a message."""

import os
import socket
import struct
import subprocess
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFile

from fcos_core.config import cfg
from fcos_core.data.image_file import FORMATS, MAX_PIXELS, UnreadableImageError, read_image
from fcos_core.errors import InputError

SIZE = (24, 16)


def pixels(channels: int = 3) -> np.ndarray:
    """Return a smooth picture, which JPEG changes little."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    planes = [20 + 6 * x, 30 + 8 * y, 40 + 3 * x + 4 * y, 200 - 2 * x - 3 * y]
    return np.stack(planes[:channels], axis=2).astype(np.uint8)


def read(path, size=SIZE) -> np.ndarray:
    image = read_image(str(path), size)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_png_is_exact(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "i.png")
    np.testing.assert_array_equal(read(tmp_path / "i.png"), pixels())


def test_jpeg(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "i.jpg", quality=95)
    assert np.abs(read(tmp_path / "i.jpg") - pixels()).max() <= 8


def test_greyscale_has_three_equal_channels(tmp_path):
    grey = pixels()[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "i.png")
    np.testing.assert_array_equal(read(tmp_path / "i.png"), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_greyscale_keeps_the_upper_eight(tmp_path, suffix):
    grey = pixels()[:, :, 0]
    Image.fromarray(grey.astype(np.uint16) * 256 + pixels()[:, :, 1]).save(tmp_path / f"i.{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"i.{suffix}"), np.stack([grey] * 3, axis=2))


def test_palette_with_and_without_transparency(tmp_path):
    indexed = Image.fromarray(pixels()).quantize(16)
    indexed.save(tmp_path / "i.png")
    indexed.save(tmp_path / "t.png", transparency=bytes(range(16)))
    expected = np.asarray(indexed.convert("RGB"))
    np.testing.assert_array_equal(read(tmp_path / "i.png"), expected)
    np.testing.assert_array_equal(read(tmp_path / "t.png"), expected)


def test_alpha_is_dropped(tmp_path):
    Image.fromarray(pixels(4), mode="RGBA").save(tmp_path / "i.png")
    np.testing.assert_array_equal(read(tmp_path / "i.png"), pixels())


def as_rgb(cmyk: np.ndarray) -> np.ndarray:
    """Convert by PIL's formula for CMYK: multiply the light that each ink lets through."""
    ink = cmyk.astype(float)
    return (255 - ink[:, :, :3]) * (255 - ink[:, :, 3:]) / 255


def test_cmyk_jpeg_with_adobe_mark_and_without(tmp_path):
    cmyk = pixels(4)
    cmyk[:, :, 3] //= 4
    image = Image.fromarray(cmyk, mode="CMYK")
    # PIL writes CMYK inverted under Adobe's mark (APP14).
    image.save(tmp_path / "adobe.jpg", quality=95)
    ImageChops.invert(image).save(tmp_path / "plain.jpg", quality=95)
    data = (tmp_path / "plain.jpg").read_bytes()
    start = data.index(b"\xff\xee")
    (tmp_path / "plain.jpg").write_bytes(data[:start] + data[start + 16 :])
    # JPEG changes this picture by less than 8 grey levels; an inversion would change it by about 100.
    assert np.abs(read(tmp_path / "adobe.jpg") - as_rgb(cmyk)).max() <= 8
    assert np.abs(read(tmp_path / "plain.jpg") - as_rgb(cmyk)).max() <= 8


# How a camera stores an upright picture under each orientation (EXIF 2.3, tag 274).
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def save_with_orientation(image: Image.Image, path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_only_where_it_gives_the_annotated_size(tmp_path, orientation):
    path = tmp_path / "i.png"
    if orientation >= 5:
        stored = Image.fromarray(pixels()).transpose(STORED[orientation])
        save_with_orientation(stored, path, orientation)
        np.testing.assert_array_equal(read(path), pixels())
        # An annotation tool that ignores EXIF gives the stored size; the pixels must then stay as they are stored.
        np.testing.assert_array_equal(read(path, SIZE[::-1]), np.asarray(stored))
    else:
        save_with_orientation(Image.fromarray(pixels()), path, orientation)
        np.testing.assert_array_equal(read(path), pixels())
        with pytest.raises(InputError, match=r"is 24x16 .* says 16x24"):
            read(path, SIZE[::-1])


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_without_an_annotation_the_picture_is_upright_under_every_orientation(tmp_path, orientation, suffix):
    image = Image.fromarray(pixels())
    stored = image.transpose(STORED[orientation]) if orientation in STORED else image
    save_with_orientation(stored, tmp_path / f"i.{suffix}", orientation)
    np.testing.assert_array_equal(read(tmp_path / f"i.{suffix}", None), pixels())


def test_an_image_without_exif_needs_no_size(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "i.png")
    np.testing.assert_array_equal(read(tmp_path / "i.png", None), pixels())


def test_a_square_image_is_never_turned(tmp_path):
    square = pixels()[:, : SIZE[1]]
    save_with_orientation(Image.fromarray(square), tmp_path / "i.png", 6)
    np.testing.assert_array_equal(read(tmp_path / "i.png", (SIZE[1], SIZE[1])), square)


def test_another_size_names_file_and_both_sizes(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "i.png")
    with pytest.raises(InputError, match=r"i\.png' is 24x16 .* says 25x16") as caught:
        read(tmp_path / "i.png", (25, 16))
    assert not isinstance(caught.value, UnreadableImageError)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image_names_its_path(tmp_path, suffix):
    path = tmp_path / f"i.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImageError, match=rf"i\.{suffix}.* cannot be read"):
        read(path, (64, 64))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b"not an image", "it is damaged, or of none of the kinds .*, or its pixels"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\n", "it is a Git LFS pointer.*git lfs pull"),
        (None, r"No such file or directory: check its path, .*\.$"),
    ],
)
def test_no_image_names_its_path(tmp_path, content, fault):
    path = tmp_path / "i.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=rf"{path}.* cannot be read: {fault}"):
        read(path)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"\0\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_damaged_exif_does_not_matter_where_the_pixels_are_whole(tmp_path, suffix, exif):
    Image.fromarray(pixels()).save(tmp_path / f"i.{suffix}", exif=exif, quality=95)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Corrupt EXIF data")
        assert np.abs(read(tmp_path / f"i.{suffix}", None) - pixels()).max() <= 8


def png_chunk(name, data, damage=0):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ damage)


# Metadata of a PNG for which PIL refuses the file although browsers show it.
METADATA = {
    "EXIF, wrong checksum": png_chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0", damage=1),
    "text, wrong checksum": png_chunk(b"tEXt", b"Comment\0c", damage=1),
    "long text": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 23))),
    "long profile": png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(1 << 23))),
    "resolution, cut short": png_chunk(b"pHYs", b"a"),
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_of_a_png_does_not_matter_where_the_pixels_are_whole(tmp_path, metadata):
    save_with_orientation(Image.fromarray(pixels()), tmp_path / "i.png", 3)
    data = (tmp_path / "i.png").read_bytes()
    (tmp_path / "i.png").write_bytes(data[:33] + metadata + data[33:])  # behind IHDR
    np.testing.assert_array_equal(read(tmp_path / "i.png", None), pixels()[::-1, ::-1], "EXIF that is whole holds")
    (tmp_path / "i.png").write_bytes(data[:33] + metadata + data[33:-30])
    with pytest.raises(UnreadableImageError, match=r"i\.png.* cannot be read"):
        read(tmp_path / "i.png")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\nshowpage\n"
PROGRAMS = {
    "eps": POSTSCRIPT,
    # An EPS with a preview begins with the place of its PostScript.
    "dos eps": struct.pack("<IIIIIII", 0xC6D3D0C5, 32, len(POSTSCRIPT), 0, 0, 0, 0).ljust(32, b"\0") + POSTSCRIPT,
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhHIH", 0, 0, 24, 16, 72, 0, 0) + b"\x01\0\x09\0" + bytes(60),
    "pdf": b"%PDF-1.4\n%%EOF\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "fits": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
}


@pytest.mark.parametrize("content", PROGRAMS.values(), ids=PROGRAMS)
def test_a_file_that_is_no_raster_starts_no_program(tmp_path, monkeypatch, content):
    def refuse(*arguments, **_):
        raise AssertionError(f"started {arguments}")

    for name in ("Popen", "call", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, refuse)
    (tmp_path / "i.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"i\.jpg.* cannot be read: it is damaged, or of none .*JPEG, PNG"):
        read(tmp_path / "i.jpg")


def test_the_formats_hold_rasters_alone():
    Image.init()
    assert not {"EPS", "WMF", "PDF", "FITS", "GRIB", "HDF5", "BUFR", "MPEG", "ICO", "ICNS"} & set(FORMATS)
    assert set(FORMATS) - {"AVIF", "QOI"} <= set(Image.OPEN)  # the two need a new or complete PIL


def make_special(folder, kind):
    path = folder / "i.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    return path


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket may have 107 characters
    path = make_special(tmp_path if kind != "socket" else tmp_path.relative_to(tmp_path), kind)
    refused = []

    def attempt():
        with pytest.raises(UnreadableImageError, match=rf"it is a {kind}, not a file"):
            read(path)
        refused.append(True)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert refused


def claim_png(path, width, height):
    """Write a PNG of a few bytes whose header claims a size."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", rows), png_chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)


def test_the_annotated_size_is_compared_before_anything_is_decoded(tmp_path, no_decoding):
    # 16384 x 16384 pixels in RGB are 805 MB.
    claim_png(tmp_path / "i.png", 16384, 16384)
    with pytest.raises(InputError, match=r"is 16384x16384 .* says 24x16"):
        read(tmp_path / "i.png")


@pytest.mark.parametrize("size", [None, (20000, 10000)])
def test_an_image_above_the_limit_names_the_key_and_the_number_to_write(tmp_path, no_decoding, size):
    claim_png(tmp_path / "i.png", 20000, 10000)
    with pytest.raises(UnreadableImageError, match=r"MAX_PIXELS 178956970: .*set INPUT\.MAX_PIXELS 200000000\."):
        read(tmp_path / "i.png", size)


@pytest.mark.parametrize("side", [10, 65535])
def test_a_gif_of_50_bytes_takes_no_gigabytes(tmp_path, monkeypatch, side):
    def refuse(*_):
        raise AssertionError("took memory")

    monkeypatch.setattr(Image.core, "fill", refuse)
    # Its only frame of 65535x65535 is to be disposed of, for which PIL takes memory as soon as it opens the file.
    frame = b"\x21\xf9\4\x08\0\0\0\0\x2c\0\0\0\0\xff\xff\xff\xff\0\2\2\x4c\1\0\x3b"
    (tmp_path / "i.gif").write_bytes(b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6) + frame)
    with pytest.raises(UnreadableImageError, match=r"has more pixels than INPUT\.MAX_PIXELS 178956970: .*set INPUT"):
        read(tmp_path / "i.gif")


def test_the_default_limit_is_the_one_of_the_config_and_what_pillow_accepts():
    assert MAX_PIXELS == cfg.INPUT.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["png", "tif", "gif", "webp"])
def test_the_limit_replaces_pillows_own_without_a_warning(tmp_path, monkeypatch, suffix):
    Image.fromarray(pixels()).save(tmp_path / f"i.{suffix}")
    # For Pillow this is an image of more than twice its limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / f"i.{suffix}", SIZE, 24 * 16).size == SIZE
        with pytest.raises(UnreadableImageError, match=r"set INPUT\.MAX_PIXELS 384"):
            read_image(tmp_path / f"i.{suffix}", SIZE, 24 * 16 - 1)
    assert Image.MAX_IMAGE_PIXELS == 100, "the program's own limit stays"
