"""Batches: padding, true sizes, and what comes with them."""

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.data import make_data_loader
from fcos_core.data.collate import BatchCollator
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import PixelNormalization

NORMALIZATION = PixelNormalization((1.0, 2.0, 3.0), (1.0, 1.0, 2.0), to_bgr255=True)


@pytest.mark.parametrize(("divisible", "padded"), [(32, (64, 96)), (64, (64, 128))])
def test_a_batch_holds_the_pixels_at_the_top_left_and_what_comes_with_them(divisible, padded):
    first, second = torch.ones(40, 70, 3, dtype=torch.uint8), torch.full((64, 33, 3), 2, dtype=torch.uint8)
    targets = [BoxList([[0.0, 0, 5, 5]], (70, 40)), BoxList([], (33, 64))]
    images, boxes, indices = BatchCollator(divisible, NORMALIZATION)([(first, targets[0], 8), (second, targets[1], 3)])
    assert images.pixels.dtype == torch.uint8 and images.pixels.shape == (2, 3, *padded)
    assert images.image_sizes == [(40, 70), (64, 33)]
    assert torch.equal(images.pixels[0, :, :40, :70], first.permute(2, 0, 1))
    assert torch.equal(images.pixels[1, :, :64, :33], second.permute(2, 0, 1))
    # Ones and twos of the images alone: nothing else is in the padding.
    assert images.pixels.sum() == 3 * 40 * 70 + 2 * 3 * 64 * 33
    assert images.normalization is NORMALIZATION
    assert boxes == targets
    assert indices == [8, 3]


@pytest.mark.parametrize("divisible", [0, 1, 16, 48, -32])
def test_size_divisibility_must_be_a_multiple_of_32(divisible):
    config = cfg.clone()
    config.merge_from_list(["DATALOADER.SIZE_DIVISIBILITY", divisible])
    with pytest.raises(InputError, match=rf"SIZE_DIVISIBILITY is {divisible}: .* 32 is the least"):
        make_data_loader(config)
