"""Folding of a fixed normalization into its convolution: same outputs and gradients, half the saved activations."""

import pytest
import torch
from torch import nn

from fcos_core.layers.conv_norm import ConvNorm, conv_norm, conv_norm_pairs, folded, has_fixed_statistics
from fcos_core.layers.fold_together import folded_together
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d
from fcos_core.modeling.backbone.hrnet import HighResolutionNet
from fcos_core.modeling.backbone.resnet import ResNet


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
    """Count the numbers that the graph of module(x) saves for the backward pass, without x and small tensors."""
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
    # With batch statistics, the outputs of the convolution and of the ReLU are saved.
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


class Blocks(nn.Module):
    """Filters of three shapes, two of equal size; trained and frozen norms, and one without fixed statistics."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(9, 4, 1, bias=False), nn.BatchNorm2d(4).eval()
        self.conv2, self.bn2 = nn.Conv2d(4, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1).eval()
        self.conv3, self.bn3 = nn.Conv2d(1, 3, 3, padding=1, bias=False), FrozenBatchNorm2d(3)
        self.last = ConvNorm(nn.Conv2d(3, 9, 1, bias=False), nn.BatchNorm2d(9).eval())
        self.other = ConvNorm(nn.Conv2d(9, 9, 1), nn.BatchNorm2d(9).eval(), nn.ReLU())
        self.trained = ConvNorm(nn.Conv2d(9, 4, 1, bias=False), nn.BatchNorm2d(4))

    def forward(self, x):
        for number in "123":
            x = conv_norm(x, getattr(self, f"conv{number}"), getattr(self, f"bn{number}"))
        return self.trained(self.other(self.last(x)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_folding_together_is_folding_one_by_one(layout):
    torch.manual_seed(0)
    blocks = Blocks().double().to(memory_format=layout)
    for tensor in blocks.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(2, 9, 8, 8, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weights = [x, *blocks.parameters()]
    single = blocks(x)
    with folded_together(blocks):
        together = blocks(x)
    torch.testing.assert_close(together, single)
    upstream = torch.randn_like(single)
    gradients = [torch.autograd.grad(output, weights, upstream) for output in (together, single)]
    torch.testing.assert_close(*gradients)
    # The optimizer's fused kernel needs the same memory layout for a parameter and its gradient.
    with folded_together(blocks):
        blocks(x).sum().backward()
    for conv in (blocks.conv1, blocks.conv2, blocks.last[0]):
        assert conv.weight.grad.stride() == conv.weight.stride()


def test_weights_folded_together_have_the_dtype_of_autocast():
    blocks = Blocks()
    x = torch.randn(1, 9, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        single = blocks(x)
        with folded_together(blocks):
            together = blocks(x)
    assert together.dtype == single.dtype == torch.bfloat16
    # Both ways round the same weights once.
    torch.testing.assert_close(together, single)


@pytest.mark.parametrize(
    # A bottleneck has three norms, a basic block two. ResNet has four in shortcuts; HRNet has one, and more in fusions.
    ("body", "count"),
    [(ResNet(50), 53), (HighResolutionNet(4, (1, 1, 1, 1), num_blocks=(1, 1, 1, 1)), None)],
    ids=["ResNet", "HRNet"],
)
def test_every_normalization_of_a_body_has_its_convolution(body, count):
    norms = [m for m in body.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    pairs = list(conv_norm_pairs(body))
    assert {id(norm) for _, norm in pairs} == {id(norm) for norm in norms}
    assert len(pairs) == len(norms) == (count or len(norms))
    assert all(conv.out_channels == len(norm.weight) for conv, norm in pairs)
    assert all(folded(conv, norm.eval())[0].shape == conv.weight.shape for conv, norm in pairs)
