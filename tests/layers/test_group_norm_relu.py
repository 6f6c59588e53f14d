"""Group normalization with its rectifier: kernels against the definition, that against PyTorch's layers."""

import pytest
import torch
import torch.nn.functional as F
from compiled_kernels import require_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fcos_core.layers.group_norm_relu import (
    group_norm_relu,
    group_norm_relu_backward_reference,
    group_norm_relu_reference,
)
from fcos_core.layers.own_dtype import GroupNorm

OPERATOR = torch.ops.fcos_core.group_norm_relu
BACKWARD = torch.ops.fcos_core.group_norm_relu_backward
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def random_inputs(shape, dtype=torch.float64, device="cpu", mean=0.5, seed=0):
    """x channels-last, and a weight and a bias of which some are negative and 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + mean
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    weight[0] = bias[-1] = 0
    wide = torch.promote_types(dtype, torch.float32)
    x = x.to(device, dtype, memory_format=torch.channels_last)
    return x, weight.to(device, wide), bias.to(device, wide)


def by_pytorch(x, weight, bias, groups, epsilon):
    return torch.relu(F.group_norm(x, groups, weight, bias, epsilon))


@pytest.mark.parametrize(("shape", "groups"), [((2, 8, 5, 7), 4), ((1, 64, 1, 1), 32), ((3, 12, 4, 4), 1)])
def test_definition_is_what_pytorch_computes(shape, groups):
    inputs = [tensor.requires_grad_() for tensor in random_inputs(shape)]
    expected = by_pytorch(*inputs, groups, 1e-5)
    y, mean, rstd = group_norm_relu_reference(*inputs, groups, 1e-5)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, grad)
    found = group_norm_relu_backward_reference(grad, *inputs, mean, rstd)
    for one, other in zip(found, gradients, strict=True):
        # of one element a group has the variance 0: gradients of 1 / sqrt(1e-5) = 316 cancel
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    x, weight, bias = random_inputs((2, 32, 9, 9), dtype)
    y, mean, rstd = OPERATOR(x, weight, bias, 32, 1e-5)
    expected = by_pytorch(x.double(), weight.double(), bias.double(), 32, 1e-5)
    assert y.dtype == dtype and mean.dtype == rstd.dtype == torch.float32
    # one rounding to 11 or 8 significant bits
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps / 2 * 1.01, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_gradients(device):
    inputs = [tensor.requires_grad_() for tensor in random_inputs((2, 4, 3, 5), device=device)]
    assert torch.autograd.gradcheck(lambda *tensors: OPERATOR(*tensors, 2, 1e-5)[0], inputs)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_operator_is_registered_right(device, dtype):
    x, weight, bias = (tensor.requires_grad_() for tensor in random_inputs((2, 16, 3, 5), dtype, device))
    torch.library.opcheck(OPERATOR, (x, weight, bias, 4, 1e-5), rtol=1e-2, atol=1e-2)
    _, mean, rstd = OPERATOR(x, weight, bias, 4, 1e-5)
    inputs = [tensor.detach() for tensor in (torch.ones_like(x), x, weight, bias, mean, rstd)]
    torch.library.opcheck(BACKWARD, inputs)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_frozen_parameters_and_a_retained_graph(device):
    x, weight, bias = random_inputs((2, 8, 3, 5), device=device)
    y = OPERATOR(x.requires_grad_(), weight, bias.requires_grad_(), 4, 1e-5)[0]
    first, second = (torch.autograd.grad(y.sum(), [x, bias], retain_graph=True) for _ in range(2))
    expected = torch.autograd.grad(by_pytorch(x, weight, bias, 4, 1e-5).sum(), [x, bias])
    for one, other, right in zip(first, second, expected, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, right, rtol=1e-10, atol=1e-10)


def test_a_second_derivative_is_refused():
    x, weight, bias = (tensor.requires_grad_() for tensor in random_inputs((1, 4, 2, 2)))
    y = OPERATOR(x, weight, bias, 2, 1e-5)[0]
    with pytest.raises(RuntimeError, match="group_norm_relu can be differentiated once"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 4, 3)}, "x must be floating point of shape"),
        ({"x": torch.zeros(2, 4, 3, 3, dtype=torch.int64)}, "x must be floating point of shape"),
        ({"groups": 3}, "groups must divide the 4 channels"),
        ({"groups": 0}, "groups must divide the 4 channels"),
        ({"weight": torch.zeros(5)}, "weight and bias must be"),
        ({"bias": torch.zeros(4, dtype=torch.float64)}, "weight and bias must be"),
    ],
)
def test_wrong_inputs_are_named(device, changed, message):
    arguments = {"x": torch.zeros(2, 4, 3, 3), "weight": torch.zeros(4), "bias": torch.zeros(4), "groups": 2}
    arguments |= changed
    arguments = [value.to(device) if isinstance(value, torch.Tensor) else value for value in arguments.values()]
    with pytest.raises(RuntimeError, match=message):
        group_norm_relu_reference(*arguments, 1e-5)


@needs_gpu
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_layer_names_a_norm_that_does_not_fit(place):
    require_kernel("group_norm_relu", "cuda")
    x = torch.randn(1, 64, 4, 4, device="cuda").to(memory_format=torch.channels_last)
    channels = 32 if place == "cuda" else 64
    with pytest.raises(RuntimeError, match="weight and bias must be"):
        group_norm_relu(x, layer(channels, device=place))


@needs_gpu
@pytest.mark.parametrize(
    "changed",
    [
        {"x": torch.zeros(2, 4, 3)},
        {"weight": torch.zeros(5)},
        {"bias": torch.zeros(3)},
        {"groups": 3},
        {"groups": 0},
    ],
)
def test_kernel_refuses_sizes_that_would_be_read_out_of_bounds(changed):
    require_kernel("group_norm_relu", "cuda")
    arguments = {"x": torch.zeros(2, 4, 3, 3), "weight": torch.zeros(4), "bias": torch.zeros(4), "groups": 2} | changed
    arguments = [value.cuda() if isinstance(value, torch.Tensor) else value for value in arguments.values()]
    with pytest.raises(RuntimeError, match="do not fit together"):
        OPERATOR(*arguments, 1e-5)


def layer(channels, groups=32, device="cpu"):
    norm = GroupNorm(groups, channels).to(device)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, channels))
        norm.bias.copy_(torch.linspace(0.5, -0.5, channels))
    return norm


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("channels", [32, 256])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_layer_equals_the_separate_layers(device, channels, memory_format):
    torch.manual_seed(0)
    norm = layer(channels, device=device)
    x = torch.randn(2, channels, 13, 9, device=device).contiguous(memory_format=memory_format)
    parameters = [x.requires_grad_(), *norm.parameters()]
    found, expected = group_norm_relu(x, norm), torch.relu(norm(x))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, parameters, grad) for y in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# Channels that fill one Vector or several, groups within a Vector or over several, one pixel, many chunks.
SHAPES = [
    ((1, 256, 37, 50), 32),
    ((2, 32, 8, 8), 32),
    ((3, 64, 1, 1), 32),
    ((2, 24, 70, 3), 3),
    ((2, 1024, 5, 3), 4),
    ((1, 256, 9, 9), 1),
]


@needs_gpu
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_kernel_equals_definition(shape, groups, dtype):
    require_kernel("group_norm_relu", "cuda")
    if shape[1] * dtype.itemsize > 4096:
        dtype = torch.float32
    inputs = random_inputs(shape, dtype, "cuda", mean=3.0)
    rounded = torch.finfo(dtype).eps
    found, expected = OPERATOR(*inputs, groups, 1e-5), group_norm_relu_reference(*inputs, groups, 1e-5)
    # float32 sums of up to 60,000 numbers, and one rounding of the result; 1 / std multiplies an error of the mean
    tolerance = max(rounded, 1e-5) if dtype != torch.float64 else 1e-11
    atol = tolerance * max(1.0, float(expected[2].max()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=atol)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn(shape, device="cuda").to(dtype, memory_format=torch.channels_last)
    found = BACKWARD(grad, *inputs, *expected[1:])
    expected = group_norm_relu_backward_reference(grad, *inputs, *expected[1:])
    # A gradient is a difference of terms that 1 / std multiplies.
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=10 * atol)
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().amax()))


@needs_gpu
@settings(max_examples=40)
@given(
    images=st.integers(1, 3),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    vectors=st.integers(1, 12),
    groups=st.sampled_from([1, 2, 4]),
)
def test_any_shape(images, height, width, vectors, groups):
    require_kernel("group_norm_relu", "cuda")
    inputs = random_inputs((images, 4 * vectors, height, width), torch.float64, "cuda")
    found, expected = OPERATOR(*inputs, groups, 1e-5)[0], group_norm_relu_reference(*inputs, groups, 1e-5)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@needs_gpu
def test_a_channels_last_map_takes_the_kernel(monkeypatch):
    require_kernel("group_norm_relu", "cuda")
    x = torch.randn(1, 32, 4, 4, device="cuda").to(memory_format=torch.channels_last)
    monkeypatch.setattr(F, "relu_", None)  # what the separate operators would call
    assert group_norm_relu(x, layer(32, device="cuda")).amin() == 0


@needs_gpu
def test_an_image_does_not_depend_on_the_others():
    require_kernel("group_norm_relu", "cuda")
    x, weight, bias = random_inputs((3, 64, 40, 33), torch.bfloat16, "cuda")
    together = OPERATOR(x, weight, bias, 32, 1e-5)[0]
    alone = torch.cat([OPERATOR(image, weight, bias, 32, 1e-5)[0] for image in x.split(1)])
    assert torch.equal(together, alone)


@needs_gpu
# PyTorch's CPU kernel is off by 1.5e-6 with the mean and by 1.2e-7 with the outliers.
@pytest.mark.parametrize(("mean", "outliers", "rtol"), [(1000.0, (), 1e-5), (0.5, (100.0, -50.0), 1e-6)])
def test_neither_a_large_mean_nor_outliers_cost_digits(mean, outliers, rtol):
    require_kernel("group_norm_relu", "cuda")
    x, weight, bias = random_inputs((1, 32, 100, 168), torch.float32, "cuda", mean)
    for place, value in enumerate(outliers):
        x[:, :, -place, -place] = value  # the first pixel and the last
    found = OPERATOR(x, weight, bias, 32, 1e-5)[2]
    expected = group_norm_relu_reference(x.double(), weight.double(), bias.double(), 32, 1e-5)[2]
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=0)


@needs_gpu
def test_what_does_not_fit_is_named_and_the_layer_computes_it_otherwise():
    require_kernel("group_norm_relu", "cuda")
    x = torch.randn(1, 33, 4, 4, device="cuda").to(memory_format=torch.channels_last)
    norm = nn.GroupNorm(3, 33, device="cuda")
    with pytest.raises(RuntimeError, match="whole multiples of 16 bytes"):
        OPERATOR(x, norm.weight, norm.bias, 3, 1e-5)
    torch.testing.assert_close(group_norm_relu(x, norm), torch.relu(norm(x)))
