"""Group normalization (Wu and He 2018, arXiv:1803.08494, sec. 3) with the ReLU after it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers._operators import define, has_kernel, refuse_second_derivative


def group_norm_relu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Compute `relu(norm(x))` for x (N, C, H, W); raise RuntimeError if x and `norm` differ in channels or device.

    On CUDA, PyTorch's own kernels copy a channels-last map to NCHW, and the next convolution copies it back. The
    operator of this package stays channels-last and keeps only x for the backward pass. It rounds half types once, at
    the output; PyTorch's kernels round `weight` and `bias` too.
    """
    if not _fits_kernel(x, norm):
        return F.relu_(norm(x))
    _check(x, norm.weight, norm.bias, norm.num_groups)
    return torch.ops.fcos_core.group_norm_relu(x, norm.weight, norm.bias, norm.num_groups, norm.eps)[0]


def _fits_kernel(x: Tensor, norm: nn.GroupNorm) -> bool:
    # torch.compile fuses the separate operators itself.
    if not x.is_cuda or torch.compiler.is_compiling() or not has_kernel("group_norm_relu", "CUDA"):
        return False
    pixel_bytes = x.shape[1] * x.element_size()
    return (
        norm.affine
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and pixel_bytes % 16 == 0
        and pixel_bytes <= 4096
        and x.shape[1] // norm.num_groups <= 256
        and norm.weight.dtype == torch.promote_types(x.dtype, torch.float32)
    )


def _check(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> None:
    if x.dim() != 4 or not x.is_floating_point():
        raise RuntimeError(
            f"group_norm_relu: x must be floating point of shape (N, C, H, W), it is {x.dtype} of {list(x.shape)}."
        )
    if groups < 1 or x.size(1) % groups:
        raise RuntimeError(f"group_norm_relu: groups must divide the {x.size(1)} channels, they are {groups}.")
    dtype = torch.promote_types(x.dtype, torch.float32)
    for parameter in (weight, bias):
        if parameter.shape != x.shape[1:2] or parameter.dtype != dtype or parameter.device != x.device:
            raise RuntimeError(
                f"group_norm_relu: weight and bias must be {dtype} of shape ({x.size(1)},) on {x.device}, one is "
                f"{parameter.dtype} of {list(parameter.shape)} on {parameter.device}."
            )


def group_norm_relu_reference(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute y = `relu(group_norm(x))` in plain PyTorch, half types in float32.

    Return y of x's shape and dtype, channels-last; mean and 1 / standard deviation (N, groups) of weight's dtype.
    Raise RuntimeError unless x is (N, C, H, W) floating point, `groups` divides C, and `weight` and `bias` are (C,)
    of x's dtype, or of float32 for half types.
    """
    _check(x, weight, bias, groups)
    values = x.to(weight.dtype)
    variance, mean = torch.var_mean(values.unflatten(1, (groups, -1)), dim=(2, 3, 4), correction=0)
    rstd = (variance + epsilon).rsqrt()
    normalized = (values - _to_channels(mean, x)) * _to_channels(rstd, x)
    y = torch.relu(normalized * weight[:, None, None] + bias[:, None, None])
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last), mean, rstd


def group_norm_relu_backward_reference(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias from the gradient of y; see `group_norm_relu_reference`."""
    groups = mean.size(1)
    normalized = (x.to(weight.dtype) - _to_channels(mean, x)) * _to_channels(rstd, x)
    passes = ~(normalized * weight[:, None, None] + bias[:, None, None] <= 0)
    grad = torch.where(passes, grad.to(weight.dtype), 0)
    weighted = grad * weight[:, None, None]
    means, products = (
        _to_channels(values.unflatten(1, (groups, -1)).mean(dim=(2, 3, 4)), x)
        for values in (weighted, weighted * normalized)
    )
    gradient = _to_channels(rstd, x) * (weighted - means - normalized * products)
    gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return gradient, (grad * normalized).sum(dim=(0, 2, 3)), grad.sum(dim=(0, 2, 3))


def _to_channels(values: Tensor, x: Tensor) -> Tensor:
    """Repeat values (N, groups) for the channels of each group, (N, C, 1, 1), to broadcast with x."""
    return values.repeat_interleave(x.size(1) // values.size(1), dim=1)[:, :, None, None]


def _fake(x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.channels_last)
    return y, weight.new_empty(x.size(0), groups), weight.new_empty(x.size(0), groups)


def _backward_fake(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    gradient = torch.empty_like(x, memory_format=torch.channels_last)
    return gradient, torch.empty_like(weight), torch.empty_like(bias)


def _save_for_backward(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, float], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, weight, bias, *_ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, rstd)


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("group_norm_relu", "group_norm_relu_reference")
    if grad is None:
        return (None,) * 5
    return *torch.ops.fcos_core.group_norm_relu_backward(grad, *ctx.saved_tensors), None, None


define(
    "group_norm_relu",
    "(Tensor x, Tensor weight, Tensor bias, int groups, float epsilon) -> (Tensor, Tensor, Tensor)",
    group_norm_relu_reference,
    _fake,
    cpu_kernel=False,
)
define(
    "group_norm_relu_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd) -> (Tensor, Tensor, Tensor)",
    group_norm_relu_backward_reference,
    _backward_fake,
    cpu_kernel=False,
)
torch.library.register_autograd("fcos_core::group_norm_relu", _backward, setup_context=_save_for_backward)
