"""Test that image files of every kind become RGB images of the annotated size, or raise an error with a message."""

import numpy as np
import pytest
from PIL import Image, ImageChops

from fcos_core.data.image_file import UnreadableImageError, read_image, to_rgb
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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_pil_images_of_every_mode_become_rgb(mode):
    image = to_rgb(Image.new(mode, SIZE))
    assert (image.mode, image.size) == ("RGB", SIZE)


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


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_no_image_names_its_path(tmp_path, content):
    path = tmp_path / "i.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=rf"{path}.* cannot be read"):
        read(path)
