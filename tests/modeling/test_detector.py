"""The detector: sizes of its levels before the forward pass, targets as box lists or assigned, images as bytes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.modeling.detector import Detector, build_detection_model
from fcos_core.modeling.fcos.fcos import build_fcos
from fcos_core.modeling.neck.fpn import FPN
from fcos_core.modeling.neck.hrfpn import HRFPN
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList, PixelNormalization

STRIDES = {5: (8, 16, 32, 64, 128), 6: (4, 8, 16, 32, 64, 128)}
TINY = {
    **{"WIDTH": 4, "STEM_CHANNELS": 8, "STAGE1_CHANNELS": 4},
    **{"NUM_MODULES": (1,) * 4, "NUM_BLOCKS": (1,) * 4, "FPN.OUT_CHANNEL": 32},
}
HRNET = [
    "MODEL.BACKBONE.CONV_BODY",
    "HRNET",
    *(word for key, value in TINY.items() for word in (f"MODEL.HRNET.{key}", value)),
]
TWO_BRANCHES = [*HRNET, "MODEL.HRNET.NUM_BRANCHES", (1, 2, 2, 2)]
RESNET = ["MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32]


def build(body, num_levels=5):
    config = cfg.clone()
    config.merge_from_list([*body, "MODEL.FCOS.FPN_STRIDES", STRIDES[num_levels]])
    config.merge_from_list(["MODEL.HRNET.FPN.CONV_STRIDE", 7 - num_levels, "MODEL.FCOS.NUM_CLASSES", 3])
    config.merge_from_list(["MODEL.FCOS.NUM_CONVS", 1])
    torch.manual_seed(0)
    return build_detection_model(config).train()


def neck(name, num_levels):
    """A neck on four branches or C2 .. C5, or on two branches, with few channels."""
    if name == "FPN":
        return FPN([2] * 4, 2, num_levels)
    return HRFPN([2] * (2 if "two" in name else 4), 2, num_levels, conv_stride=7 - num_levels)


# A body of two branches has strides 4 and 8: sides need not be multiples of 32.
@pytest.mark.parametrize(("name", "step"), [("FPN", 32), ("HRFPN", 32), ("HRFPN of two branches", 8)])
@pytest.mark.parametrize("num_levels", [5, 6])
@given(numbers=st.tuples(st.integers(1, 40), st.integers(1, 40)))
@example(numbers=(1, 1))
@example(numbers=(1, 40))
def test_level_sizes_are_those_of_a_forward_pass(name, step, num_levels, numbers):
    height, width = (number * step for number in numbers)
    features = [torch.zeros(1, 2, height // stride, width // stride) for stride in (4, 8, 16, 32) if stride <= step]
    module = neck(name, num_levels)
    with torch.no_grad():
        levels = module(features)
    assert module.level_sizes(height, width) == [tuple(level.shape[-2:]) for level in levels]


@pytest.mark.parametrize("num_levels", [5, 6])
@pytest.mark.parametrize(("body", "size"), [(HRNET, (96, 32)), (TWO_BRANCHES, (40, 88)), (RESNET, (32, 96))])
def test_level_sizes_are_those_of_the_backbone(body, size, num_levels):
    backbone = build(body, num_levels).backbone
    with torch.no_grad():
        levels = backbone(torch.zeros(1, 3, *size))
    assert backbone.level_sizes(*size) == [tuple(level.shape[-2:]) for level in levels]


def batch(sizes=((64, 96), (50, 40))):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (len(sizes), 3, 64, 96), generator=generator, dtype=torch.uint8)
    normalization = PixelNormalization((100.0, 110.0, 120.0), (50.0, 60.0, 70.0), to_bgr255=True)
    targets = []
    for height, width in sizes:
        target = BoxList([[2.0, 2, 40, 35], [10, 8, 30, 28]], (width, height))
        target.add_field("labels", torch.tensor([1, 2]))
        targets.append(target)
    return ByteImages(pixels, list(sizes), normalization), targets


@pytest.mark.parametrize("body", [HRNET, RESNET], ids=["HRNet", "ResNet"])
def test_bytes_and_floats_and_assigned_targets_give_the_same_losses(body):
    model = build(body)
    images, targets = batch()
    expected = model(images.normalize(), targets)
    assert all(value.isfinite() and value > 0 for value in expected.values())
    assert model(images.to("cpu"), targets) == expected
    assert model(images, model.assign_targets((64, 96), targets)) == expected


def test_bytes_and_floats_give_the_same_detections():
    model = build([*HRNET, "MODEL.FCOS.PRIOR_PROB", 0.2]).eval()
    images, _ = batch()
    with torch.no_grad():
        found, expected = model(images.to("cpu")), model(images.normalize())
    for one, other in zip(found, expected, strict=True):
        assert len(one) > 0 and one.size == other.size
        assert torch.equal(one.bbox, other.bbox)
        assert torch.equal(one.get_field("scores"), other.get_field("scores"))


def test_training_needs_targets():
    with pytest.raises(ValueError, match="needs targets"):
        build(HRNET)(batch()[0])


class OwnBackbone(nn.Module):
    """Levels by pooling, whose sizes are rounded up or down."""

    def __init__(self, round_up):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 1)
        self.round_up = round_up

    def forward(self, x):
        return [self.conv(F.avg_pool2d(x, stride, ceil_mode=self.round_up)) for stride in STRIDES[5]]


class SaysItsSizes(OwnBackbone):
    def level_sizes(self, height, width):
        return [(height // stride, width // stride) for stride in STRIDES[5]]


def own_losses(backbone):
    images = torch.rand(1, 3, 128, 160)  # 160 / 64 and 160 / 128 are rounded
    target = BoxList([[2.0, 2, 40, 35]], (160, 128))
    target.add_field("labels", torch.tensor([1]))
    model = Detector(backbone, build_fcos(cfg.clone(), 64)).train()
    return model(ImageList(images, [(128, 160)]), [target])


def test_a_backbone_of_ones_own_need_not_say_its_level_sizes():
    assert all(value.isfinite() for value in own_losses(OwnBackbone(round_up=True)).values())
    assert all(value.isfinite() for value in own_losses(SaysItsSizes(round_up=False)).values())


@pytest.mark.parametrize("backbone", [OwnBackbone(round_up=False), SaysItsSizes(round_up=True)], ids=["none", "wrong"])
def test_wrong_level_sizes_are_an_error(backbone):
    with pytest.raises(InputError, match=r"level_sizes\(height, width\)"):
        own_losses(backbone)
