"""Batches: padding, true sizes, and what comes with them."""

import pytest
import torch

from fcos_core.data.collate import BatchCollator
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList


@pytest.mark.parametrize(("divisible", "padded"), [(32, (64, 96)), (64, (64, 128))])
def test_images_are_padded_with_zeros_at_the_right_and_bottom(divisible, padded):
    first, second = torch.ones(3, 40, 70), torch.full((3, 64, 33), 2.0)
    targets = [BoxList([[0.0, 0, 5, 5]], (70, 40)), BoxList([], (33, 64))]
    images, boxes, indices = BatchCollator(divisible)([(first, targets[0], 8), (second, targets[1], 3)])
    assert images.tensors.shape == (2, 3, *padded)
    assert images.image_sizes == [(40, 70), (64, 33)]
    torch.testing.assert_close(images.tensors[0, :, :40, :70], first)
    torch.testing.assert_close(images.tensors[1, :, :64, :33], second)
    # Ones and twos of the images alone: nothing else is in the padding.
    assert images.tensors.sum() == 3 * 40 * 70 + 2 * 3 * 64 * 33
    assert boxes == targets
    assert indices == [8, 3]


@pytest.mark.parametrize("divisible", [0, 1, 16, 48, -32])
def test_size_divisibility_must_be_a_multiple_of_32(divisible):
    with pytest.raises(InputError, match=rf"SIZE_DIVISIBILITY is {divisible}: .* 32 is the least"):
        BatchCollator(divisible)
