"""Padding a backbone with channels of zeros does not change its levels."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fcos_core.deploy.pad_channels import pad_channels
from fcos_core.layers.conv_norm import convert_convs
from fcos_core.layers.inference_conv import InferenceConv2d
from fcos_core.modeling.backbone.build import body_with_neck
from fcos_core.modeling.backbone.hrnet import HighResolutionNet
from fcos_core.modeling.backbone.mobilenet import MobileNetV2
from fcos_core.modeling.backbone.resnet import ResNet
from fcos_core.modeling.backbone.timm_body import TimmBody
from fcos_core.modeling.neck.fpn import FPN
from fcos_core.modeling.neck.hrfpn import HRFPN


def prepared(backbone):
    """Convert `backbone` for inference in float64, after giving its norms random values."""
    for module in backbone.modules():
        if hasattr(module, "running_var"):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.uniform_(0.5, 1.5)
    backbone.double().eval().requires_grad_(False)
    convert_convs(backbone)
    return backbone


def hrnet():
    torch.manual_seed(0)
    body = HighResolutionNet(5, (1,) * 4, num_blocks=(1,) * 4, stem_channels=9, stage1_channels=3)
    return prepared(nn.Sequential(body, HRFPN(body.out_channels, 32, num_levels=5, conv_stride=2)))


def resnet(groups, width, deformable_stages=()):
    torch.manual_seed(0)
    body = ResNet(50, num_groups=groups, width_per_group=width, deformable_stages=deformable_stages, modulated=True)
    return prepared(body_with_neck(body, FPN(body.out_channels, 32, num_levels=5)))


def mobilenet():
    torch.manual_seed(0)
    body = MobileNetV2()
    return prepared(body_with_neck(body, FPN(body.out_channels, 32, num_levels=5)))


@pytest.mark.parametrize("multiple", [4, 8])
@pytest.mark.parametrize(
    "make",
    [hrnet, lambda: resnet(1, 4), lambda: resnet(2, 4), mobilenet],
    ids=["hrnet", "resnet", "groups", "mobilenet"],
)
def test_padding_does_not_change_the_levels(make, multiple):
    plain = make()
    padded = copy.deepcopy(plain)
    channels = pad_channels(padded, multiple)
    assert channels == multiple
    for conv in padded.modules():
        if isinstance(conv, InferenceConv2d):
            assert conv.weight.shape[0] % multiple == 0 and conv.weight.shape[1] * conv.groups % multiple == 0
            assert (conv.out_channels, conv.in_channels // conv.groups) == conv.weight.shape[:2]
    again = copy.deepcopy(padded)
    assert pad_channels(again, multiple) == channels
    assert all(map(torch.equal, again.parameters(), padded.parameters()))
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    levels = padded(F.pad(images, (0, 0, 0, 0, 0, channels - 3)))
    for level, expected in zip(levels, plain(images), strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().amax()))


@pytest.mark.parametrize("options", [(3, 2), (1, 4, [4])], ids=["groups", "deformable"])
def test_backbone_with_unpaddable_channels_does_not_change(options):
    plain = resnet(*options)
    state = copy.deepcopy(plain.state_dict())
    assert pad_channels(plain, 8) == 3
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


def test_multiple_of_1_changes_nothing():
    plain = hrnet()
    shapes = [parameter.shape for parameter in plain.parameters()]
    assert pad_channels(plain, 1) == 3
    assert [parameter.shape for parameter in plain.parameters()] == shapes


def test_network_whose_convolutions_are_not_converted_does_not_change():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    body = TimmBody(timm.create_model("test_resnet", features_only=True, feature_cls="getter"), (8, 16, 32))
    plain = prepared(body_with_neck(body, FPN(body.out_channels, 32, num_levels=5)))
    shapes = [parameter.shape for parameter in plain.parameters()]
    assert pad_channels(plain, 64) == 3
    assert [parameter.shape for parameter in plain.parameters()] == shapes
