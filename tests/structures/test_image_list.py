import pytest
import torch

from fcos_core.structures.image_list import ByteImages, ImageList, PixelNormalization, to_byte_images, to_image_list

SIZES = [(20, 32), (32, 17), (9, 5)]  # height, width
BGR = PixelNormalization((102.9801, 115.9465, 122.7717), (1.0, 2.0, 4.0), to_bgr255=True)
RGB = PixelNormalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), to_bgr255=False)


def byte_images(normalization=BGR) -> ByteImages:
    """Random bytes, in the padding too."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (len(SIZES), 32, 32, 3), generator=generator, dtype=torch.uint8)
    return ByteImages(pixels.permute(0, 3, 1, 2), SIZES, normalization)


def normalized_one_by_one(images: ByteImages) -> torch.Tensor:
    """Each image as floats, minus mean, over deviation, then padded with zeros."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.normalization.mean, images.normalization.std))
    floats = []
    for pixels, (height, width) in zip(images.pixels, images.image_sizes, strict=True):
        image = pixels[:, :height, :width].float()
        image = image[[2, 1, 0]] if images.normalization.to_bgr255 else image / 255
        floats.append((image - mean) / std)
    return to_image_list(floats, 32).tensors


def test_images_are_padded_at_the_right_and_bottom():
    images = to_image_list([torch.ones(3, 33, 60), torch.ones(3, 20, 64)], size_divisible=32)
    assert images.tensors.shape == (2, 3, 64, 64)
    assert images.image_sizes == [(33, 60), (20, 64)]
    assert images.tensors[0, :, :33, :60].eq(1).all()
    # All that was given is one, so the sums say that the rest is zero.
    assert images.tensors.sum(dim=(1, 2, 3)).tolist() == [3 * 33 * 60, 3 * 20 * 64]
    assert images.padded_size == (64, 64) and images[1:].padded_size == (64, 64)


def test_a_batch_of_the_right_size_is_not_copied():
    batch = torch.rand(2, 3, 32, 64)
    images = to_image_list(batch, size_divisible=32)
    assert images.tensors.data_ptr() == batch.data_ptr()
    assert images.image_sizes == [(32, 64), (32, 64)]
    assert to_image_list(images) is images


def test_one_image_makes_a_batch():
    images = to_image_list(torch.rand(3, 30, 30), size_divisible=32)
    assert images.tensors.shape == (1, 3, 32, 32)
    assert images.image_sizes == [(30, 30)]


@pytest.mark.parametrize("images", ["image", [1, 2], torch.rand(3)])
def test_other_things_are_refused(images):
    with pytest.raises(TypeError):
        to_image_list(images)


def test_moves():
    images = ImageList(torch.rand(1, 3, 8, 8), [(8, 7)]).to(torch.float64)
    assert images.tensors.dtype == torch.float64
    assert images.image_sizes == [(8, 7)]


@pytest.mark.parametrize("normalization", [BGR, RGB])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bytes_become_what_floats_were(normalization, memory_format):
    images = byte_images(normalization)
    floats = images.to("cpu", non_blocking=True).normalize(memory_format)
    assert type(floats) is ImageList and floats.image_sizes == SIZES and len(floats) == 3
    assert floats.tensors.dtype == torch.float32 and floats.tensors.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(floats.tensors, normalized_one_by_one(images), rtol=0, atol=0)


def test_bytes_stay_bytes_until_they_are_normalized():
    images = byte_images()
    moved = images.to("cpu")
    assert type(moved) is ByteImages and moved.pixels.dtype == torch.uint8 and torch.equal(moved.pixels, images.pixels)
    assert moved.image_sizes == SIZES and moved.normalization is BGR and len(moved) == 3
    assert moved.padded_size == images.normalize().padded_size == (32, 32)


def test_bytes_are_taken_where_floats_are():
    images = byte_images()
    taken = to_image_list(images, size_divisible=32)
    assert torch.equal(taken.tensors, normalized_one_by_one(images)) and taken.image_sizes == SIZES


def test_parts_of_a_batch_are_normalized_each_for_itself():
    images = byte_images()
    whole = images.normalize().tensors
    part = images[1:]
    assert type(part) is ByteImages and part.image_sizes == SIZES[1:] and len(part) == 2
    assert torch.equal(part.normalize().tensors, whole[1:])
    assert part.pixels.data_ptr() == images.pixels[1:].data_ptr()
    part = images.normalize()[1:]
    assert type(part) is ImageList and part.image_sizes == SIZES[1:] and torch.equal(part.tensors, whole[1:])


def test_bytes_are_left_as_they_were():
    images = byte_images()
    before = images.pixels.clone()
    images.normalize().tensors.zero_()
    assert torch.equal(images.pixels, before)


@pytest.mark.parametrize("normalization", [BGR, RGB])
def test_floats_in_0_to_255_are_taken_as_bytes_are_and_left_as_they_were(normalization):
    images = byte_images(normalization)
    floats = ByteImages(images.pixels.float() + 0.25, SIZES, normalization)
    before = floats.pixels.clone()
    torch.testing.assert_close(floats.normalize().tensors, normalized_one_by_one(floats), rtol=0, atol=0)
    assert torch.equal(floats.pixels, before)


def test_gathered_bytes_are_padded_with_zeros_and_channels_last():
    first, second = torch.ones(33, 60, 3, dtype=torch.uint8), torch.full((20, 64, 3), 2, dtype=torch.uint8)
    images = to_byte_images([first, second], RGB, size_divisible=32, at_least=(65, 10))
    assert images.pixels.shape == (2, 3, 96, 64) and images.pixels.dtype == torch.uint8
    assert images.pixels.is_contiguous(memory_format=torch.channels_last)
    assert images.image_sizes == [(33, 60), (20, 64)] and images.normalization is RGB
    assert torch.equal(images.pixels[0, :, :33, :60], first.permute(2, 0, 1))
    assert torch.equal(images.pixels[1, :, :20, :64], second.permute(2, 0, 1))
    assert images.pixels.sum() == 3 * 33 * 60 + 2 * 3 * 20 * 64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("normalization", [BGR, RGB])
def test_bytes_become_floats_on_the_gpu(normalization):
    images = byte_images(normalization)
    expected = images.normalize().tensors
    for moved in (images.to("cuda"), images.pin_memory().to("cuda", non_blocking=True)):
        assert moved.pixels.is_cuda and moved.pixels.is_contiguous(memory_format=torch.channels_last)
        floats = moved.normalize().tensors
        assert floats.is_cuda and floats.is_contiguous()
        # A GPU divides by a number by multiplying with its inverse: two roundings more.
        torch.testing.assert_close(floats.cpu(), expected, rtol=2**-22, atol=2**-22)
