"""The plain contender computes the same results as the detector."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.models import make_targets, network_input
from benchmarks.plain import PlainTrainingStep, make_plain, make_plain_optimizer, unfolded
from fcos_core.errors import InputError
from fcos_core.layers.conv_norm import conv_norm
from fcos_core.solver import make_optimizer
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList

CPU = torch.device("cpu")


def sorted_detections(found):
    """Return rows (score, label, box), best first; the plain post-processing lists them class by class."""
    fields = [found.get_field(name)[:, None].double() for name in ("scores", "labels")]
    rows = torch.cat([*fields, found.bbox.double()], dim=1)
    return rows[rows[:, 0].sort(descending=True, stable=True).indices]


@pytest.fixture
def batch(config, images):
    # The second image is smaller than the batch, to test the clipping of boxes to the image.
    return ImageList(network_input(config, images).double(), [(96, 128), (80, 90)])


@pytest.mark.parametrize("kept", [100, 20])
def test_detections_equal_the_detectors(config, detector, batch, kept):
    config.merge_from_list(["TEST.DETECTIONS_PER_IMG", kept, "MODEL.FCOS.PRE_NMS_TOP_N", 150])
    detector = detector.double()
    detector.rpn.postprocess.detections_per_image = kept
    detector.rpn.postprocess.pre_nms_top_n = 150
    plain = make_plain(config, copy.deepcopy(detector))
    with torch.no_grad():
        expected, found = detector(batch), plain(batch)
    assert all(len(image) >= 15 for image in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.size == theirs.size
        torch.testing.assert_close(sorted_detections(ours), sorted_detections(theirs), rtol=1e-9, atol=1e-9)


# The second box lies before the first location, (4, 4), so no location is positive.
@pytest.mark.parametrize("boxes", [7, [[0, 0, 3, 3]]], ids=["positives", "no positives"])
def test_losses_and_gradients_equal_the_detectors(config, detector, batch, boxes):
    if boxes == 7:
        targets = [target.to(torch.float64) for target in make_targets(2, 7, 96, 128, 6, CPU)]
    else:
        targets = [BoxList(torch.tensor(boxes, dtype=torch.float64), (128, 96)) for _ in range(2)]
        for target in targets:
            target.add_field("labels", torch.ones(1, dtype=torch.int64))
    detector = detector.double().train()
    plain = make_plain(config, copy.deepcopy(detector))
    with unfolded():
        found = plain(batch, targets)
    expected = detector(batch, targets)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    for (name, ours), theirs in zip(plain.named_parameters(), detector.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_plain_step_equals_the_step_of_our_optimizer(config, detector, batch):
    targets = [target.to(torch.float64) for target in make_targets(2, 7, 96, 128, 6, CPU)]
    detector = detector.double().train()
    plain = make_plain(config, copy.deepcopy(detector))
    PlainTrainingStep(plain, make_plain_optimizer(config, plain))(batch, targets)
    optimizer = make_optimizer(config, detector)
    before = copy.deepcopy(detector.state_dict())
    sum(detector(batch, targets).values()).backward()
    optimizer.step()
    moved = {name: value for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
    assert len(moved) == len(list(detector.parameters()))
    for name, value in moved.items():
        torch.testing.assert_close(plain.state_dict()[name], value, rtol=1e-7, atol=1e-10)


def test_unfolded_training_keeps_the_normalization_apart():
    conv, norm, x = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval(), torch.rand(1, 3, 2, 2)
    assert conv_norm(x, conv, norm).grad_fn.name() == "ConvolutionBackward0"
    with unfolded():
        assert conv_norm(x, conv, norm).grad_fn.name() == "NativeBatchNormBackward0"
    assert conv_norm(x, conv, norm).grad_fn.name() == "ConvolutionBackward0"


@pytest.mark.parametrize(("key", "value"), [("IOU_LOSS_TYPE", "giou"), ("CENTER_SAMPLING_RADIUS", 1.5)])
def test_options_that_the_plain_detector_lacks_are_refused(config, detector, key, value):
    config.merge_from_list([f"MODEL.FCOS.{key}", value])
    with pytest.raises(InputError, match=rf"has no MODEL\.FCOS\.{key} {value}: choose a model without it"):
        make_plain(config, detector)
