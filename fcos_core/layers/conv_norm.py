"""A convolution and the normalization after it, as one convolution where that computes the same."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """`norm(conv(x))` for x (N, C, H, W).

    While gradients are recorded and the statistics are fixed, the normalization goes into the convolution's weight
    and bias: it then keeps no activation for its backward pass, half of what a network keeps otherwise. Gradients
    reach its own weight and bias through the convolution's.
    """
    if not torch.is_grad_enabled() or not has_fixed_statistics(norm):
        return norm(conv(x))
    weight, bias = folded(conv, norm)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that computes `norm(conv(x))`, differentiable.

    Args:
        norm: one that `has_fixed_statistics`.
    """
    eps = 0.0 if isinstance(norm, FrozenBatchNorm2d) else norm.eps
    scale = norm.weight * (norm.running_var + eps).rsqrt()
    offset = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale[:, None, None, None], norm.bias - offset * scale


def has_fixed_statistics(norm: nn.Module) -> bool:
    """Whether `norm` multiplies and shifts each channel by numbers that do not depend on its input."""
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return norm.affine and norm.track_running_stats and not norm.training
    return isinstance(norm, FrozenBatchNorm2d)


class ConvNorm(nn.Sequential):
    """A convolution, its normalization, and whatever layers follow; `nn.Sequential`'s keys."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, *others = self
        x = conv_norm(x, conv, norm)
        for layer in others:
            x = layer(x)
        return x
