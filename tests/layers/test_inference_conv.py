"""Convolution fused with shortcut and ReLU, against the separate operators."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fcos_core.layers.conv_norm import ConvNorm, conv_norm, convert_convs
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d
from fcos_core.layers.inference_conv import InferenceConv2d

# The fused operator rounds half types once, the separate operators three times.
CPU_TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
GPU_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("device", "dtype", "tolerance"),
    [
        *(("cpu", *case) for case in CPU_TOLERANCES.items()),
        *(pytest.param("cuda", *case, marks=needs_gpu) for case in GPU_TOLERANCES.items()),
    ],
)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1, "groups": 4},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "bias": False},
    ],
    ids=["1x1", "stride", "groups", "dilation"],
)
def test_equals_the_separate_operators(device, dtype, tolerance, relu, with_shortcut, options):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 24, **options).to(device, dtype, memory_format=torch.channels_last)
    x = torch.randn(2, 16, 9, 14).to(device, dtype, memory_format=torch.channels_last)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        out = conv(x)
        shortcut = torch.randn_like(out) if with_shortcut else None
        expected = out if shortcut is None else out + shortcut
        expected = F.relu(expected) if relu else expected
        fused = InferenceConv2d(conv, conv.weight, conv.bias)
        found = fused(x, shortcut, relu)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_it_is_fixed():
    conv = nn.Conv2d(3, 4, 1)
    fused = InferenceConv2d(conv, conv.weight, conv.bias)
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert set(fused.state_dict()) == {"weight", "bias"}


class Residual(nn.Module):
    """Convolutions with a fixed norm, without a norm and with a trained norm, and a shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = ConvNorm(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.conv = nn.Conv2d(8, 8, 1)
        self.norm = FrozenBatchNorm2d(8)
        self.last = nn.Conv2d(8, 8, 1)
        self.trained = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x):
        x = self.stem(x)
        x = conv_norm(x, self.conv, self.norm, shortcut=x + 0, relu=True)
        return conv_norm(x, self.last, self.trained)


def test_convert_convs():
    torch.manual_seed(0)
    model = Residual().double().eval()
    for norm in (model.stem[1], model.norm):
        norm.load_state_dict({k: torch.rand_like(v.double()) + 0.1 for k, v in norm.state_dict().items()})
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        assert convert_convs(model) == 2
        torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    assert [type(m) for m in (model.stem[1], model.norm, model.trained)] == [nn.Identity, nn.Identity, nn.BatchNorm2d]
    assert all(type(m) is InferenceConv2d for m in (model.stem[0], model.conv, model.last))
