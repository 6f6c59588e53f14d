"""A fixed normalization inside its convolution: the same outputs and gradients, half the activations kept."""

import pytest
import torch
from torch import nn

from fcos_core.layers.conv_norm import ConvNorm, conv_norm, has_fixed_statistics
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d


def pair(norm_class, bias=False):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias).double()
    norm = norm_class(6).double().eval()
    norm.load_state_dict({key: torch.rand_like(value.double()) + 0.1 for key, value in norm.state_dict().items()})
    return conv, norm


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm_class", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_outputs_and_gradients_are_those_of_the_two_layers(norm_class, bias):
    conv, norm = pair(norm_class, bias)
    x = torch.randn(2, 4, 8, 9, dtype=torch.float64, requires_grad=True)
    weights = [x, *conv.parameters(), *norm.parameters()]
    one, two = conv_norm(x, conv, norm), norm(conv(x))
    torch.testing.assert_close(one, two)
    upstream = torch.randn_like(two)
    gradients = [torch.autograd.grad(output, weights, upstream) for output in (one, two)]
    torch.testing.assert_close(*gradients)


def kept(module, x):
    """Numbers that the graph of module(x) keeps for its backward pass, beside x and what is small."""
    sizes = {}

    def note(tensor):
        if tensor.numel() >= x.numel():
            sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = module(x)
    sizes.pop(x.data_ptr())
    return sum(sizes.values()), output


def test_a_fixed_normalization_keeps_no_activation():
    x = torch.rand(1, 4, 64, 64)
    layers = ConvNorm(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    # Trained on batch statistics, the convolution's output is kept, and the ReLU's.
    assert kept(layers.train(), x)[0] == 2 * x.numel()
    assert kept(layers.eval(), x)[0] == x.numel()


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False).eval(), nn.Identity(), nn.GroupNorm(2, 6)]
)
def test_any_other_normalization_stays_a_layer(norm):
    assert not has_fixed_statistics(norm)
    conv, _ = pair(nn.BatchNorm2d)
    x, norm = torch.randn(2, 4, 8, 8, dtype=torch.float64), norm.double()
    state = {key: value.clone() for key, value in norm.state_dict().items()}
    output = conv_norm(x, conv, norm)
    norm.load_state_dict(state)
    torch.testing.assert_close(output, norm(conv(x)), rtol=0, atol=0)


def test_without_gradients_the_layers_run_as_they_are():
    conv, norm = pair(nn.BatchNorm2d)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(conv_norm(x, conv, norm), norm(conv(x)))
