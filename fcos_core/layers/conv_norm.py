"""Convolution and normalization, folded into one convolution where the result is the same."""

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d
from fcos_core.layers.inference_conv import InferenceConv2d

# Results of `folded` for many convolutions, computed together by `fold_together.folded_together`.
FOLDS: ContextVar[Mapping[nn.Conv2d, tuple[Tensor, Tensor]] | None] = ContextVar("folds", default=None)


def conv_norm(
    x: Tensor, conv: nn.Conv2d | DFConv2d, norm: nn.Module, shortcut: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Compute `norm(conv(x))` for x (N, C, H, W), add `shortcut` of the same shape, and apply ReLU if `relu`.

    After `convert_convs`, the result overwrites `shortcut`, so nothing else may read `shortcut` afterwards.

    In training with fixed statistics, the normalization is folded into the convolution's weight and bias, through
    which gradients reach its parameters. It then keeps no activation for the backward pass, which halves the
    activations that a network keeps.
    """
    if isinstance(conv, InferenceConv2d) and isinstance(norm, nn.Identity):
        return conv(x, shortcut, relu)
    if torch.is_grad_enabled() and has_fixed_statistics(norm) and isinstance(conv, nn.Conv2d):
        folds = None if torch.compiler.is_compiling() else FOLDS.get()
        weight, bias = folds[conv] if folds and conv in folds else folded(conv, norm)
        out = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    else:
        out = norm(conv(x))
    if shortcut is not None:
        out = out + shortcut
    return F.relu_(out) if relu else out


def folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias, differentiable, of the convolution that computes `norm(conv(x))` for fixed statistics."""
    scale = norm.weight * (norm.running_var + epsilon(norm)).rsqrt()
    offset = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale[:, None, None, None], norm.bias - offset * scale


def has_fixed_statistics(norm: nn.Module | None) -> bool:
    """Return True if `norm` scales and shifts each channel by numbers that do not depend on the input."""
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return norm.affine and norm.track_running_stats and not norm.training
    return isinstance(norm, FrozenBatchNorm2d)


def epsilon(norm: nn.Module) -> float:
    """Return the number that `norm`, which has fixed statistics, adds to the variance."""
    return 0.0 if isinstance(norm, FrozenBatchNorm2d) else norm.eps


class KeptAsItIs(nn.Module):
    """Network of another library, in which `convert_convs` converts and folds nothing.

    The order in which its layers stand does not tell the order in which they run.
    """


def convert_convs(model: nn.Module) -> int:
    """Replace every convolution of `model` by an `InferenceConv2d`, in place, except those in a `KeptAsItIs`.

    Fold a norm with fixed statistics directly after a convolution into it and replace the norm by an identity. Return
    the number of folded norms.
    """
    num_folded = 0
    kept = {part for module in model.modules() if isinstance(module, KeptAsItIs) for part in module.modules()}
    for module in [module for module in model.modules() if module not in kept]:
        children = [*module.named_children(), ("", None)]
        for (name, conv), (norm_name, norm) in pairwise(children):
            owner = module
            if isinstance(conv, DFConv2d):
                owner, name, conv = conv, "conv", conv.conv
            if type(conv) is not nn.Conv2d:
                continue
            weight, bias = conv.weight, conv.bias
            if has_fixed_statistics(norm):
                weight, bias = folded(conv, norm)
                setattr(module, norm_name, nn.Identity())
                num_folded += 1
            setattr(owner, name, InferenceConv2d(conv, weight, bias))
    return num_folded


class ConvNorm(nn.Sequential):
    """Convolution, normalization and any further layers, with the state-dict keys of `nn.Sequential`."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, *others = self
        relu = len(others) > 0 and isinstance(others[0], nn.ReLU)
        x = conv_norm(x, conv, norm, relu=relu)
        for layer in others[1:] if relu else others:
            x = layer(x)
        return x


def conv_norm_pairs(module: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Module]]:
    """Yield the layers of every `conv_norm` in `module`: the first two of a `ConvNorm`, and convN with its bnN.

    Norms after deformable convolutions, which are not folded in training, are left out.
    """
    for parent in module.modules():
        if isinstance(parent, ConvNorm):
            if isinstance(parent[0], nn.Conv2d):
                yield parent[0], parent[1]
            continue
        children = dict(parent.named_children())
        for name, child in children.items():
            norm = children.get(name.replace("conv", "bn"))
            if isinstance(child, nn.Conv2d) and norm is not child and norm is not None:
                yield child, norm
