"""Bias, shortcut and rectifier in one pass: the kernel against the definition, and that against separate operators."""

import pytest
import torch
import torch.nn.functional as F
from compiled_kernels import require_kernel

from fcos_core.layers.add_relu import add_relu_, add_relu_reference_

OPERATOR = torch.ops.fcos_core.add_relu_
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def random_inputs(shape, dtype, device="cpu", with_bias=True, with_shortcut=True):
    generator = torch.Generator().manual_seed(0)
    x, shortcut = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    bias = torch.randn(shape[1], generator=generator, dtype=torch.float64).to(device, dtype)
    x, shortcut = (tensor.to(device, dtype, memory_format=torch.channels_last) for tensor in (x, shortcut))
    return x, bias if with_bias else None, shortcut if with_shortcut else None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_equals_the_separate_operators(device, relu, with_shortcut, with_bias, memory_format):
    x, bias, shortcut = random_inputs((2, 6, 3, 5), torch.float64, device, with_bias, with_shortcut)
    x = x.contiguous(memory_format=memory_format)
    expected = x.clone() if bias is None else x + bias[:, None, None]
    expected = expected if shortcut is None else expected + shortcut
    expected = F.relu(expected) if relu else expected
    by_definition = x.clone()
    add_relu_reference_(by_definition, bias, shortcut, relu)
    found = add_relu_(x, bias, shortcut, relu)
    assert found.data_ptr() == x.data_ptr()
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(by_definition, expected, rtol=1e-14, atol=1e-14)


@needs_gpu
# Channels that fill Vectors, that do not, and elements that are left over after the last one.
@pytest.mark.parametrize(
    "shape", [(2, 64, 9, 14), (3, 18, 7, 5), (1, 3, 5, 5), (1, 1, 1, 1), (2, 8, 1, 1), (0, 8, 2, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("with_bias", "with_shortcut"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("relu", [False, True])
def test_kernel_equals_definition(shape, dtype, with_bias, with_shortcut, relu):
    require_kernel("add_relu_", "cuda")
    x, bias, shortcut = random_inputs(shape, dtype, "cuda", with_bias, with_shortcut)
    expected = x.clone()
    add_relu_reference_(expected, bias, shortcut, relu)
    OPERATOR(x, bias, shortcut, relu)
    # the same additions in the same order, rounded once
    assert torch.equal(x, expected)


@needs_gpu
def test_a_channels_last_map_takes_the_kernel(monkeypatch):
    require_kernel("add_relu_", "cuda")
    x, bias, shortcut = random_inputs((1, 8, 4, 4), torch.float32, "cuda")
    monkeypatch.setattr(F, "relu_", None)  # what the separate operators would call
    assert add_relu_(x, bias, shortcut, relu=True).amin() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_a_nan_is_kept(device):
    x = torch.tensor([1.0, torch.nan, -1.0, 2.0], device=device).view(1, 4, 1, 1)
    found = add_relu_(x, None, None, relu=True)
    assert found.isnan().flatten().tolist() == [False, True, False, False]


@pytest.mark.parametrize("device", DEVICES)
def test_operator_is_registered_right(device):
    torch.library.opcheck(OPERATOR, (*random_inputs((2, 6, 3, 5), torch.float32, device), True))


@needs_gpu
@pytest.mark.parametrize(("place", "shape"), [(1, (5,)), (2, (2, 6, 3, 4))])
def test_kernel_refuses_sizes_that_would_be_read_out_of_bounds(place, shape):
    require_kernel("add_relu_", "cuda")
    inputs = list(random_inputs((2, 6, 3, 5), torch.float32, "cuda"))
    for wrong in (torch.zeros(shape, device="cuda"), inputs[place].cpu()):
        inputs[place] = wrong
        with pytest.raises(RuntimeError, match="do not fit together"):
            OPERATOR(*inputs, True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", [add_relu_, add_relu_reference_])
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(2, 6, 3), "x must be floating point of shape"),
        (1, torch.zeros(5), "bias must be of x's dtype and device"),
        (1, torch.zeros(6, dtype=torch.float64), "bias must be of x's dtype and device"),
        (2, torch.zeros(2, 6, 3, 4), "shortcut must be of x's dtype"),
    ],
)
def test_wrong_inputs_are_named(device, place, value, message, implementation):
    inputs = list(random_inputs((2, 6, 3, 5), torch.float32, device))
    inputs[place] = value.to(device)
    with pytest.raises(RuntimeError, match=message):
        implementation(*inputs, True)
