"""What becomes of pixels of every kind: brought to 8-bit RGB as the file says, or refused with a sentence."""

import base64
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from fcos_core.data.image_file import UnreadableImageError, read_image, to_rgb

# A ramp of all 256 grey levels, (4, 256).
RAMP = np.tile(np.arange(256), (4, 1))
REFUSED = None


def write_tiff(path, channels, dtype, photometric=1, planar=1, tags=()):
    """Write an uncompressed TIFF of channels (H, W, C) or (H, W), with further tags (number, type, values)."""
    dtype = np.dtype(dtype)
    values = channels if channels.ndim == 3 else channels[..., None]
    height, width, count = values.shape
    strips = [values] if planar == 1 else np.moveaxis(values, 2, 0)
    strips = [np.ascontiguousarray(strip).astype(dtype).tobytes() for strip in strips]
    order = ">" if dtype.byteorder == ">" else "<"
    kind = {"u": 1, "i": 2, "f": 3}[dtype.kind]
    offsets = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [8 * dtype.itemsize] * count), (259, 3, [1])]
    entries += [(262, 3, [photometric]), (273, 4, offsets), (277, 3, [count]), (278, 4, [height])]
    entries += [(279, 4, list(map(len, strips))), (284, 3, [planar]), (339, 3, [kind] * count), *tags]
    start = 8 + sum(map(len, strips))
    directory, values_of_tags = b"", b""
    for number, type_, content in sorted(entries):
        data = struct.pack(order + {3: "H", 4: "I", 12: "d"}[type_] * len(content), *content)
        if len(data) > 4:
            place = start + 2 + 12 * len(entries) + 4 + len(values_of_tags)
            values_of_tags += data
            data = struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", number, type_, len(content)) + data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    count_of_entries = struct.pack(order + "H", len(entries))
    path.write_bytes(head + b"".join(strips) + count_of_entries + directory + bytes(4) + values_of_tags)


def write_png(path, channels, significant=()):
    """Write a PNG of 16 bits a channel, with the chunk sBIT if bits are given."""
    values = channels if channels.ndim == 3 else channels[..., None]
    height, width, count = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    chunks = [(b"IHDR", header), *([(b"sBIT", bytes(significant))] if significant else [])]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def assert_becomes(path, expected):
    if expected is REFUSED:
        with pytest.raises(UnreadableImageError, match=rf"{path.name}' .* cannot be read: .*: convert it to 8 bits"):
            read_image(path)
        return
    found = np.asarray(read_image(path)).astype(int)
    expected = np.broadcast_to(expected if expected.ndim == 3 else expected[..., None], found.shape)
    assert np.abs(found - expected).max() <= 1  # rounding


MAP = np.arange(256)[::-1]  # of palette index to grey level
FLOAT_TAGS = [(340, 12, [0.0]), (341, 12, [1.0])]
# Kind of TIFF: values, dtype without the byte order, further arguments of write_tiff, result.
TIFFS = {
    "uint16": (RAMP * 257, "u2", {}, RAMP),
    "uint16, 8-bit values": (RAMP, "u2", {}, REFUSED),
    "uint16, 10-bit values": (RAMP * 4, "u2", {}, REFUSED),
    "uint16, 12-bit values": (RAMP * 16, "u2", {}, REFUSED),
    "uint16, 12-bit values, MaxSampleValue": (RAMP * 16 + 15, "u2", {"tags": [(281, 3, [4095])]}, RAMP),
    # A statistic stands for the bits in use.
    "uint16, 8-bit values, MaxSampleValue": (RAMP, "u2", {"tags": [(281, 3, [255])]}, RAMP),
    "uint16, values above MaxSampleValue": (RAMP * 257, "u2", {"tags": [(281, 3, [4095])]}, REFUSED),
    "uint16, all black": (RAMP * 0, "u2", {}, RAMP * 0),
    "int16": (RAMP * 128, "i2", {}, REFUSED),
    "int16, tags": (RAMP * 257 - 32768, "i2", {"tags": [(340, 12, [-32768.0]), (341, 12, [32767.0])]}, RAMP),
    "int8": (RAMP - 128, "i1", {}, REFUSED),
    "int8, tags": (RAMP - 128, "i1", {"tags": [(340, 12, [-128.0]), (341, 12, [127.0])]}, RAMP),
    "int32": (RAMP, "i4", {}, REFUSED),
    "int32, tag of white": (RAMP, "i4", {"tags": [(341, 12, [255.0])]}, RAMP),
    "int32, values outside": (RAMP * 2, "i4", {"tags": [(341, 12, [255.0])]}, REFUSED),
    "float32 to 1": (RAMP / 255, "f4", {}, REFUSED),
    "float32 to 255": (RAMP, "f4", {}, REFUSED),
    "float32, tags": (RAMP / 255, "f4", {"tags": FLOAT_TAGS}, RAMP),
    "float32, NaN": (np.where(RAMP == 7, np.nan, RAMP / 255), "f4", {"tags": FLOAT_TAGS}, REFUSED),
    "float32, white is zero": (RAMP / 255, "f4", {"tags": FLOAT_TAGS, "photometric": 0}, 255 - RAMP),
    "float32, nonsense tags": (RAMP / 255, "f4", {"tags": [(340, 12, [1.0]), (341, 12, [1.0])]}, REFUSED),
    "RGB of 16 bits": (np.stack([RAMP * 257] * 3, 2), "u2", {"photometric": 2}, RAMP),
    "RGB of 16 bits, 8-bit values": (np.stack([RAMP] * 3, 2), "u2", {"photometric": 2}, REFUSED),
    "RGB of 16 bits, 12-bit values": (np.stack([RAMP * 16] * 3, 2), "u2", {"photometric": 2}, REFUSED),
    "CMYK of 16 bits, 8-bit values": (np.stack([RAMP] * 4, 2), "u2", {"photometric": 5}, REFUSED),
    # PIL takes every byte of such a file for a pixel.
    "RGB of 16 bits, planes": (np.stack([RAMP * 257] * 3, 2), "u2", {"photometric": 2, "planar": 2}, REFUSED),
    "RGB, planes": (np.stack([RAMP] * 3, 2), "u1", {"photometric": 2, "planar": 2}, RAMP),
    "colour map": (RAMP, "u1", {"photometric": 3, "tags": [(320, 3, list(MAP * 257) * 3)]}, 255 - RAMP),
    "colour map, 8-bit values": (RAMP, "u1", {"photometric": 3, "tags": [(320, 3, list(MAP) * 3)]}, REFUSED),
    "premultiplied": (np.stack([RAMP, RAMP * 0 + 255], 2), "u1", {"tags": [(338, 3, [1])]}, RAMP),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("values", "dtype", "arguments", "expected"), TIFFS.values(), ids=TIFFS)
def test_every_kind_of_tiff(tmp_path, values, dtype, arguments, expected, order):
    write_tiff(tmp_path / "i.tif", values, order + dtype, **arguments)
    assert_becomes(tmp_path / "i.tif", expected)


# These two kinds exist in PIL for little-endian files alone.
def test_unsigned_integers_of_32_bits_and_white_is_zero_of_16(tmp_path):
    write_tiff(tmp_path / "i.tif", RAMP * 16843009, "<u4", tags=[(281, 4, [2**32 - 1])])
    assert_becomes(tmp_path / "i.tif", RAMP)
    write_tiff(tmp_path / "i.tif", RAMP * 257, "<u2", photometric=0)
    assert_becomes(tmp_path / "i.tif", 255 - RAMP)


def test_twelve_bits_are_scaled(tmp_path):
    first, second = (RAMP * 16)[:, ::2], (RAMP * 16)[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2).reshape(4, -1)
    write_tiff(tmp_path / "i.tif", packed, "u1")
    data = (tmp_path / "i.tif").read_bytes()
    # The packed bytes are 384 a row; the file says 256 values of 12 bits.
    data = data.replace(struct.pack("<HHIHH", 258, 3, 1, 8, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0))
    data = data.replace(struct.pack("<HHII", 256, 4, 1, 384), struct.pack("<HHII", 256, 4, 1, 256))
    (tmp_path / "i.tif").write_bytes(data)
    assert_becomes(tmp_path / "i.tif", RAMP)


PNGS = {
    "16 bits": (RAMP * 257, (), RAMP),
    "16 bits, sBIT 16": (RAMP * 257, (16,), RAMP),
    # PNG's specification, 11.3.3.4: significant bits stand at the top.
    "16 bits, sBIT 12": (RAMP * 256, (12,), RAMP),
    "8-bit values": (RAMP, (), REFUSED),
    "8-bit values, sBIT 8": (RAMP, (8,), RAMP),
    "12-bit values, sBIT 12": (RAMP * 16 + 15, (12,), RAMP),
    "RGB": (np.stack([RAMP * 257] * 3, 2), (), RAMP),
    "RGB, 8-bit values": (np.stack([RAMP] * 3, 2), (), REFUSED),
    "RGBA, 8-bit values": (np.stack([RAMP] * 3 + [RAMP * 0 + 65535], 2), (), REFUSED),
    "grey with alpha": (np.stack([RAMP * 257, RAMP * 0], 2), (), RAMP),
    "grey with alpha, 12-bit values": (np.stack([RAMP * 16, RAMP * 0 + 65535], 2), (), REFUSED),
}


@pytest.mark.parametrize(("values", "significant", "expected"), PNGS.values(), ids=PNGS)
def test_every_kind_of_png_with_16_bits(tmp_path, values, significant, expected):
    write_png(tmp_path / "i.png", values, significant)
    assert_becomes(tmp_path / "i.png", expected)


NETPBM = {
    "P5, 16 bits": (b"P5 256 4 65535\n", RAMP * 257, ">u2", RAMP),
    "P5, 12 bits": (b"P5 256 4 4095\n", RAMP * 16 + 15, ">u2", RAMP),
    "P5, 8-bit values": (b"P5 256 4 65535\n", RAMP, ">u2", REFUSED),
    "P6, 12 bits": (b"P6 256 4 4095\n", np.stack([RAMP * 16 + 15] * 3, 2), ">u2", RAMP),
    "P6, 8-bit values": (b"P6 256 4 65535\n", np.stack([RAMP] * 3, 2), ">u2", REFUSED),
    "Pf, floats": (b"Pf 256 4 -1.0\n", RAMP / 255, "<f4", REFUSED),
}


@pytest.mark.parametrize(("head", "values", "dtype", "expected"), NETPBM.values(), ids=NETPBM)
def test_every_kind_of_netpbm(tmp_path, head, values, dtype, expected):
    (tmp_path / "i.pnm").write_bytes(head + values.astype(dtype).tobytes())
    assert_becomes(tmp_path / "i.pnm", expected)


# 8x2 pixels with the values 0 to 255 in three channels of 16 bits (JPEG 2000) and of 12 bits (AVIF), written by
# OpenJPEG 2.5.4 and libavif 1.4.2, because PIL writes 8 bits.
OTHERS = {
    "j2k": "/0//UQAvAAAAAAAIAAAAAgAAAAAAAAAAAAAACAAAAAIAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEBAAQEAAH/XAAEQID/kAAK"
    "AAAAAAAyAAH/k9/4kPAJPJRVD8pM3u0pwyi+zOqiQqkfnpNITrk1VqcbXq+AgP/Z",
    "avif": "AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZgAAAOttZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "AA5waXRtAAAAAAABAAAAHmlsb2MAAAAARAAAAQABAAAAAQAAAQ8AAAA/AAAAKGlpbmYAAAAAAAEAAAAaaW5mZQIAAAAAAQAAYXYw"
    "MUNvbG9yAAAAAGppcHJwAAAAS2lwY28AAAAUaXNwZQAAAAAAAAAIAAAAAgAAABBwaXhpAAAAAAMMDAwAAAAMYXYxQ4FAYAAAAAAT"
    "Y29scm5jbHgAAgACAACAAAAAF2lwbWEAAAAAAAAAAQABBAECgwQAAABHbWRhdBIACghYCD+NAgIAiDIxEAAA9gDFmjme9hMetIID"
    "u2XY3hf9xOQR89BT1Lz5LennrrsI+/CRulxbXnTCP/OAgA==",
}


@pytest.mark.parametrize("suffix", OTHERS)
def test_colours_of_more_than_8_bits_that_would_be_black(tmp_path, suffix):
    if not features.check({"j2k": "jpg_2000"}.get(suffix, suffix)):
        pytest.skip(f"PIL without {suffix}")
    (tmp_path / f"i.{suffix}").write_bytes(base64.b64decode(OTHERS[suffix]))
    assert_becomes(tmp_path / f"i.{suffix}", REFUSED)
    # A dark picture of 8 bits is one.
    Image.new("RGB", (8, 2), (9, 9, 9)).save(tmp_path / f"dark.{suffix}")
    assert_becomes(tmp_path / f"dark.{suffix}", np.full((2, 8), 9))


# Every mode of PIL (Image.MODES): a value, and what becomes of it as RGB; None: refused.
MODES = {
    "1": (1, (255, 255, 255)),
    "L": (200, (200, 200, 200)),
    "LA": ((200, 9), (200, 200, 200)),
    "La": ((200, 255), (200, 200, 200)),
    "P": (0, (0, 0, 0)),
    "PA": ((0, 9), (0, 0, 0)),
    "RGB": ((10, 20, 30), (10, 20, 30)),
    "RGBA": ((10, 20, 30, 9), (10, 20, 30)),
    "RGBa": ((10, 20, 30, 255), (10, 20, 30)),
    "RGBX": ((10, 20, 30, 0), (10, 20, 30)),
    "CMYK": ((0, 0, 0, 55), (200, 200, 200)),
    "YCbCr": ((200, 128, 128), (200, 200, 200)),
    "HSV": ((0, 0, 200), (200, 200, 200)),
    "LAB": ((255, 128, 128), (255, 255, 255)),  # PIL holds a and b with 128 as zero
    "I;16": (51400, (200, 200, 200)),
    "I;16L": (51400, (200, 200, 200)),
    "I;16B": (51400, (200, 200, 200)),
    "I;16N": (51400, (200, 200, 200)),
    "I": (200, None),
    "F": (200.0, None),
}


@pytest.mark.parametrize(("mode", "value", "expected"), [(mode, *rest) for mode, rest in MODES.items()], ids=MODES)
def test_pil_images_of_every_mode(mode, value, expected):
    image = Image.new(mode, (5, 4), value)
    if expected is None:
        with pytest.raises(UnreadableImageError, match=r"^The PIL image cannot be read: .*: convert it to 8 bits"):
            to_rgb(image)
        return
    rgb = to_rgb(image)
    assert (rgb.mode, rgb.size) == ("RGB", (5, 4))
    assert np.abs(np.asarray(rgb)[0, 0].astype(int) - expected).max() <= 2


def test_the_table_has_every_mode():
    assert set(MODES) >= set(getattr(Image, "MODES", MODES))


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_a_pil_image_of_16_bits_that_would_be_black(mode):
    with pytest.raises(UnreadableImageError, match=r"no value above 4000 of 65535"):
        to_rgb(Image.new(mode, (5, 4), 4000))


def test_a_pil_image_that_is_cut_short_or_empty(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "i.png")
    (tmp_path / "i.png").write_bytes((tmp_path / "i.png").read_bytes()[:4000])
    with pytest.raises(UnreadableImageError, match=r"The PIL image cannot be read: .*truncated"):
        to_rgb(Image.open(tmp_path / "i.png"))
    with pytest.raises(UnreadableImageError, match="has no pixels"):
        to_rgb(Image.new("RGB", (0, 5)))
