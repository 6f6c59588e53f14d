"""Random detectors find as much as trained detectors, for every contender."""

import pytest
import torch

from benchmarks.contenders import make_torchvision_fcos, torchvision_thresholds
from benchmarks.models import (
    bias_shift,
    count_candidates,
    load_config,
    make_detector,
    make_images,
    make_targets,
    network_input,
)
from fcos_core.errors import InputError

CPU = torch.device("cpu")


def test_bias_shift_makes_exactly_count_candidates():
    needed = torch.tensor([3.0, -1.0, 0.5, 2.0])
    assert bias_shift(needed, 2) == 1.25  # halfway between the second and the third smallest
    assert (needed < bias_shift(needed, 2)).sum() == 2
    assert bias_shift(needed, 100) == bias_shift(needed, 2)  # at most half of the scores


def test_detector_has_the_requested_number_of_candidates(config, detector, images):
    # 300 per image, except scores within rounding of the threshold.
    assert count_candidates(config, detector, images) == pytest.approx(300, abs=3)


def test_detector_is_a_function_of_its_arguments(config, detector, images):
    again = make_detector(config, images, candidates=300)
    assert all(torch.equal(a, b) for a, b in zip(detector.parameters(), again.parameters(), strict=True))


def test_boxes_of_neighbours_overlap(config, detector, images):
    # Boxes reach four cells to each side, so boxes of neighbours have an IoU of 0.78 and suppress each other.
    with torch.no_grad():
        _, distances, _ = detector.rpn.head(detector.backbone(network_input(config, images)))
    for level, stride in zip(distances, config.MODEL.FCOS.FPN_STRIDES, strict=True):
        assert level.median().item() == pytest.approx(4 * stride, rel=0.5)


def test_torchvision_has_as_many_candidates_on_the_same_pixels():
    images = make_images(1, 64, 96, CPU)
    model = make_torchvision_fcos(images, candidates=200)
    assert model.transform(list(images))[0].tensors.shape == (1, 3, 64, 96)
    assert (torchvision_thresholds(model, images) < 0).sum().item() == pytest.approx(200, abs=3)
    with torch.no_grad():
        (found,) = model(list(images))
    assert len(found["boxes"]) > 10


def test_network_input_is_bgr_less_the_mean(config):
    images = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    # Blue 0, green 127.5, red 255, less INPUT.PIXEL_MEAN.
    expected = torch.tensor([0 - 102.9801, 127.5 - 115.9465, 255 - 122.7717])
    torch.testing.assert_close(network_input(config, images).flatten(), expected)


def test_targets_lie_within_the_image():
    for target in make_targets(3, 50, 96, 128, 6, CPU):
        assert target.bbox.min() >= 0
        assert (target.bbox[:, 2] <= 127).all() and (target.bbox[:, 3] <= 95).all()
        assert target.get_field("labels").min() >= 1 and target.get_field("labels").max() <= 5


def test_unknown_model_is_an_error_that_names_the_nearest():
    with pytest.raises(InputError, match=r"'fcos_R_50_51_2x'.*nearest name is 'fcos_R_50_5l_2x'"):
        load_config("fcos_R_50_51_2x", CPU)
