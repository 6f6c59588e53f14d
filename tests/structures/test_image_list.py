import pytest
import torch

from fcos_core.structures.image_list import ImageList, to_image_list


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
