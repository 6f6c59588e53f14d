import pytest
import torch

from fcos_core.structures.image_list import ByteImageList, ImageList, PixelNormalization, to_image_list

SIZES = [(20, 32), (32, 17), (9, 5)]  # height, width
BGR = PixelNormalization((102.9801, 115.9465, 122.7717), (1.0, 2.0, 4.0), to_bgr255=True)
RGB = PixelNormalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), to_bgr255=False)


def byte_images(normalize=BGR) -> ByteImageList:
    """Random bytes, in the padding too."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (len(SIZES), 32, 32, 3), generator=generator, dtype=torch.uint8)
    return ByteImageList(pixels, SIZES, normalize)


def normalized_one_by_one(images: ByteImageList, dtype) -> torch.Tensor:
    """Each image as floats, minus mean, over deviation, then padded with zeros."""
    mean, std = (
        torch.tensor(values, dtype=dtype).view(3, 1, 1) for values in (images.normalize.mean, images.normalize.std)
    )
    floats = []
    for pixels, (height, width) in zip(images.pixels, images.image_sizes, strict=True):
        image = pixels[:height, :width].permute(2, 0, 1).to(dtype)
        image = image[[2, 1, 0]] if images.normalize.to_bgr255 else image / 255
        floats.append((image - mean) / std)
    return to_image_list(floats, 32).tensors


def test_images_are_padded_at_the_right_and_bottom():
    images = to_image_list([torch.ones(3, 33, 60), torch.ones(3, 20, 64)], size_divisible=32)
    assert images.tensors.shape == (2, 3, 64, 64)
    assert images.image_sizes == [(33, 60), (20, 64)]
    assert images.tensors[0, :, :33, :60].eq(1).all()
    # All that was given is one, so the sums say that the rest is zero.
    assert images.tensors.sum(dim=(1, 2, 3)).tolist() == [3 * 33 * 60, 3 * 20 * 64]


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


@pytest.mark.parametrize("normalize", [BGR, RGB])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bytes_become_what_floats_were(normalize, memory_format):
    images = byte_images(normalize)
    moved = images.to("cpu", non_blocking=True, memory_format=memory_format)
    assert type(moved) is ImageList and moved.image_sizes == SIZES
    assert moved.tensors.dtype == torch.float32 and moved.tensors.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(moved.tensors, normalized_one_by_one(images, torch.float32), rtol=0, atol=0)


def test_bytes_become_the_dtype_asked_for():
    images = byte_images()
    for words in ([torch.float64], ["cpu", torch.float64]):
        tensors = images.to(*words).tensors
        torch.testing.assert_close(tensors, normalized_one_by_one(images, torch.float64), rtol=0, atol=0)
    # Rounded once, at the end.
    half = images.to(dtype=torch.bfloat16).tensors
    assert torch.equal(half, normalized_one_by_one(images, torch.float32).to(torch.bfloat16))


def test_bytes_are_taken_where_floats_are():
    images = byte_images()
    expected = normalized_one_by_one(images, torch.float32)
    assert torch.equal(to_image_list(images).tensors, expected)
    assert torch.equal(images.copy_to("cpu").tensors, expected)
    assert len(images) == len(images.to("cpu")) == 3


def test_parts_of_a_batch_are_normalized_each_for_itself():
    images = byte_images()
    for whole in (images, images.to("cpu")):
        part = whole[1:]
        assert type(part) is type(whole) and part.image_sizes == SIZES[1:] and len(part) == 2
        assert torch.equal(part.to("cpu").tensors, images.to("cpu").tensors[1:])
    assert images[1:].pixels.data_ptr() == images.pixels[1:].data_ptr()


def test_bytes_are_left_as_they_were():
    images = byte_images()
    before = images.pixels.clone()
    images.to("cpu").tensors.zero_()
    assert torch.equal(images.pixels, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("normalize", [BGR, RGB])
def test_bytes_become_floats_on_the_gpu(normalize):
    images = byte_images(normalize)
    for moved in (images.to("cuda"), images.pin_memory().to("cuda", non_blocking=True)):
        assert moved.tensors.is_cuda and moved.tensors.is_contiguous()
        # A GPU divides by a number by multiplying with its inverse: two roundings more.
        torch.testing.assert_close(moved.tensors.cpu(), images.to("cpu").tensors, rtol=2**-22, atol=2**-22)
