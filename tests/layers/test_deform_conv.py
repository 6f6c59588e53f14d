"""Deformable convolution: what it computes, in which dtype and memory layout, and what the compiler makes of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fcos_core.layers import DFConv2d
from fcos_core.layers.conv_norm import ConvNorm, conv_norm, conv_norm_pairs, convert_convs
from fcos_core.layers.fold_together import folded_together
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d
from fcos_core.layers.inference_conv import InferenceConv2d


def layer(offset_std=0.0, **options):
    torch.manual_seed(0)
    module = DFConv2d(4, 6, **options).double()
    nn.init.normal_(module.offset.weight, std=offset_std)
    return module


def images(dtype=torch.float64, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 9, 7, generator=generator, dtype=torch.float64).to(dtype, memory_format=layout)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "groups": 2, "bias": True}, {"deformable_groups": 2}, {"dilation": 2}, {"padding": 0}]
)
@pytest.mark.parametrize("modulated", [False, True])
def test_without_offsets_it_is_a_convolution(options, modulated):
    module, x = layer(with_modulated_dcn=modulated, **options), images()
    conv = module.conv
    plain = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    # Logits of 0 multiply every sample by one half.
    expected = plain / 2 if modulated else plain
    torch.testing.assert_close(module(x), expected if conv.bias is None else expected + conv.bias[:, None, None])


def test_offsets_move_the_samples_and_the_last_channels_weigh_them():
    module, x = layer(), images()
    torch.nn.init.zeros_(module.offset.bias)
    # All nine positions one row down and two columns right; the channels are (y, x) pairs.
    module.offset.bias.data[0:18:2], module.offset.bias.data[1:18:2] = 1.0, 2.0
    module.offset.bias.data[18:] = torch.logit(torch.tensor(0.25, dtype=torch.float64))
    moved = F.pad(x, (0, 2, 0, 1))[:, :, 1:, 2:]
    expected = F.conv2d(moved, module.conv.weight, padding=1) / 4
    # At the upper and left border the samples meet the image where the moved image has its padding.
    torch.testing.assert_close(module(x)[:, :, 1:, 1:], expected[:, :, 1:, 1:])


@pytest.mark.parametrize(
    ("modulated", "groups", "count"), [(True, 1, 27), (False, 1, 18), (True, 2, 54), (False, 2, 36)]
)
def test_number_of_predicted_channels(modulated, groups, count):
    assert DFConv2d(4, 4, with_modulated_dcn=modulated, deformable_groups=groups).offset.out_channels == count


def test_state_dict_and_start():
    module = DFConv2d(16, 8, groups=2, bias=True)
    assert list(module.state_dict()) == ["offset.weight", "offset.bias", "conv.weight", "conv.bias"]
    # Kaiming uniform with a = 1: the bound is sqrt(3 / fan_in), fan_in = 16 * 9.
    largest = module.offset.weight.abs().max().item()
    assert 0.95 < largest / (3 / 144) ** 0.5 <= 1
    assert not module.offset.bias.any() and not module.conv.bias.any()
    # As published: uniform up to 1 / sqrt(16 * 9), whatever the groups.
    assert 0.95 < module.conv.weight.abs().max().item() * 144**0.5 <= 1
    assert list(DFConv2d(4, 4).state_dict()) == ["offset.weight", "offset.bias", "conv.weight"]


def test_gradient_is_the_numerical_one():
    module, x = layer(offset_std=0.1, bias=True), images()[:1, :, :3, :3].contiguous()
    names, values = zip(*module.named_parameters(), strict=True)

    def run(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(dtype):
    module = layer(offset_std=0.1, bias=True).float()
    x = images(torch.float32)
    # Weights, images and offsets that the half type holds exactly leave only the rounding of the result.
    for tensor in module.state_dict().values():
        tensor.copy_(tensor.to(dtype))
    x = x.to(dtype).float()
    with torch.no_grad():
        predicted = module.offset(x).to(dtype)
        module.offset.forward = lambda x: predicted.to(x.dtype)
        expected = module(x).to(dtype)
        found = module.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_autocast_gives_its_dtype_and_finite_gradients():
    module = layer(offset_std=0.1).float()
    x = images(torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    for tensor in (x, *module.parameters()):
        assert tensor.grad.dtype == torch.float32 and tensor.grad.isfinite().all() and tensor.grad.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_of_the_input_is_kept(layout):
    module = layer(offset_std=0.1)
    out = module.to(memory_format=layout)(images(layout=layout))
    assert out.is_contiguous(memory_format=layout)
    torch.testing.assert_close(out, layer(offset_std=0.1)(images()))


def norm_after(module, kind):
    norm = kind(module.conv.out_channels).double().eval()
    norm.load_state_dict({key: torch.rand_like(value.double()) + 0.5 for key, value in norm.state_dict().items()})
    return norm


@pytest.mark.parametrize("kind", [FrozenBatchNorm2d, nn.BatchNorm2d])
@pytest.mark.parametrize("bias", [False, True])
def test_compiler_folds_the_norm_into_the_filter(kind, bias):
    module = layer(offset_std=0.1, bias=bias)
    block = ConvNorm(module, norm_after(module, kind), nn.ReLU()).eval().requires_grad_(False)
    x = images()
    expected = block(x)
    assert convert_convs(block) == 1
    assert isinstance(module.offset, InferenceConv2d) and isinstance(block[1], nn.Identity)
    torch.testing.assert_close(block(x), expected)


def test_norm_is_not_folded_in_training():
    module = layer(offset_std=0.1)
    block = ConvNorm(module, norm_after(module, FrozenBatchNorm2d))
    x, shortcut = images(), torch.randn(2, 6, 9, 7, dtype=torch.float64)
    expected = F.relu(block[1](module(x)) + shortcut)
    with folded_together(block):
        torch.testing.assert_close(conv_norm(x, *block, shortcut=shortcut, relu=True), expected)


def test_a_deformable_convolution_beside_others_leaves_their_folds_alone():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(4, 4, 1, bias=False), FrozenBatchNorm2d(4)
            self.conv2, self.bn2 = DFConv2d(4, 6), FrozenBatchNorm2d(6)

        def forward(self, x):
            return conv_norm(conv_norm(x, self.conv1, self.bn1, relu=True), self.conv2, self.bn2)

    block = Block().double()
    assert [conv for conv, _ in conv_norm_pairs(block)] == [block.conv1]
    expected = block(images())
    with folded_together(block):
        found = block(images())
    torch.testing.assert_close(found, expected)
