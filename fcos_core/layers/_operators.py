"""Loads the compiled operators of csrc/ and registers what Python adds to them.

After this import `torch.ops.fcos_core` holds the operators of `_DEFINITIONS`, compiled or not. Each has a shape
function, for torch.compile and torch.export, and its pure PyTorch definition as the kernel of every device that has
no compiled one. The focal losses and the normalization have their gradients registered with autograd.
"""

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fcos_core.layers import _reference

# each operator's schema, that of csrc/operators.cpp, and its definition
_DEFINITIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "add_relu_": (
        "(Tensor(a!) x, Tensor? bias, Tensor? shortcut, bool relu) -> ()",
        _reference.add_relu_reference_,
    ),
    "nms_mask": (
        "(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold) -> Tensor",
        _reference.nms_mask_reference,
    ),
    "assign_targets": (
        "(Tensor locations, Tensor ranges, Tensor boxes, Tensor labels, Tensor offsets) -> (Tensor, Tensor)",
        _reference.assign_targets_reference,
    ),
    "group_norm_relu": (
        "(Tensor x, Tensor weight, Tensor bias, int groups, float epsilon) -> (Tensor, Tensor, Tensor)",
        _reference.group_norm_relu_reference,
    ),
    "group_norm_relu_backward": (
        "(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd) -> (Tensor, Tensor, Tensor)",
        _reference.group_norm_relu_backward_reference,
    ),
    "sigmoid_focal_loss": (
        "(Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor",
        _reference.sigmoid_focal_loss_reference,
    ),
    "sigmoid_focal_loss_backward": (
        "(Tensor grad, Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor",
        _reference.sigmoid_focal_loss_backward_reference,
    ),
    "sigmoid_focal_loss_sum": (
        "(Tensor logits, Tensor targets, Tensor scale, float gamma, float alpha, bool with_grad) -> (Tensor, Tensor)",
        _reference.sigmoid_focal_loss_sum_reference,
    ),
    "scale_gradient_": ("(Tensor(a!) gradient, Tensor factor) -> ()", _reference.scale_gradient_reference_),
}

_HOW_TO_BUILD = "To build them, run `pip install --no-build-isolation -e .` in the repository."

try:
    importlib.import_module("fcos_core._C")
    COMPILED = True
except ImportError as error:
    COMPILED = False
    warnings.warn(
        f"The compiled operators of fcos_core were not found ({error}); "
        f"slower pure PyTorch ones serve. {_HOW_TO_BUILD}",
        stacklevel=2,
    )

_missing = [name for name in _DEFINITIONS if not hasattr(torch.ops.fcos_core, name)]
if COMPILED and _missing:
    warnings.warn(
        f"The compiled operators of fcos_core are older than its source and lack {', '.join(_missing)}; "
        f"slower pure PyTorch ones serve. {_HOW_TO_BUILD}",
        stacklevel=2,
    )
for _name in _missing:
    torch.library.define(f"fcos_core::{_name}", _DEFINITIONS[_name][0])


@functools.cache
def _warn_no_kernel(device_type: str) -> None:
    warnings.warn(
        f"The operators of fcos_core were compiled without kernels for {device_type}; "
        f"slower pure PyTorch ones serve. {_HOW_TO_BUILD}",
        stacklevel=2,
    )


@functools.cache
def has_kernel(name: str, dispatch_key: str) -> bool:
    """Whether the operator was compiled for "CPU" or "CUDA"."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fcos_core::{name}", dispatch_key)


def _serve_other_devices(name: str, definition: Callable[..., Any]) -> None:
    """Make `definition` the kernel of `name` on devices without a compiled one."""

    def kernel(*args: Any) -> Any:
        # What has no kernel for the CPU is not used there: PyTorch's own is as fast.
        if COMPILED and args[0].device.type != "cpu":
            _warn_no_kernel(args[0].device.type)
        return definition(*args)

    torch.library.impl(name, "default", func=kernel)


for _name, (_, _definition) in _DEFINITIONS.items():
    _serve_other_devices(f"fcos_core::{_name}", _definition)


@torch.library.register_fake("fcos_core::add_relu_")
def _add_relu_shape(x: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool) -> None:
    return None


@torch.library.register_fake("fcos_core::nms_mask")
def _nms_mask_shape(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(boxes.size(0), dtype=torch.bool)


@torch.library.register_fake("fcos_core::assign_targets")
def _assign_targets_shape(
    locations: Tensor, ranges: Tensor, boxes: Tensor, labels: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    images, places = offsets.size(0) - 1, locations.size(0)
    return labels.new_empty(images, places), boxes.new_empty(images, places, 4)


@torch.library.register_fake("fcos_core::group_norm_relu")
def _group_norm_relu_shape(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.channels_last)
    return y, weight.new_empty(x.size(0), groups), weight.new_empty(x.size(0), groups)


@torch.library.register_fake("fcos_core::group_norm_relu_backward")
def _group_norm_relu_backward_shape(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    gradient = torch.empty_like(x, memory_format=torch.channels_last)
    return gradient, torch.empty_like(weight), torch.empty_like(bias)


@torch.library.register_fake("fcos_core::sigmoid_focal_loss")
def _focal_loss_shape(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@torch.library.register_fake("fcos_core::sigmoid_focal_loss_backward")
def _focal_loss_backward_shape(grad: Tensor, logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@torch.library.register_fake("fcos_core::sigmoid_focal_loss_sum")
def _focal_loss_sum_shape(
    logits: Tensor, targets: Tensor, scale: Tensor, gamma: float, alpha: float, with_grad: bool
) -> tuple[Tensor, Tensor]:
    return scale.new_empty(()), logits.new_empty(logits.shape if with_grad else 0)


@torch.library.register_fake("fcos_core::scale_gradient_")
def _scale_gradient_shape(gradient: Tensor, factor: Tensor) -> None:
    return None


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, float, float], output: Tensor) -> None:
    logits, targets, ctx.gamma, ctx.alpha = inputs
    ctx.save_for_backward(logits, targets)


def _refuse_second_derivative(name: str) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{name} can be differentiated once; create_graph=True asks for a second derivative. "
            f"{name}_reference has one."
        )


def _focal_loss_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    _refuse_second_derivative("sigmoid_focal_loss")
    logits, targets = ctx.saved_tensors
    gradient = torch.ops.fcos_core.sigmoid_focal_loss_backward(grad, logits, targets, ctx.gamma, ctx.alpha)
    return gradient, None, None, None


def _save_for_sum_backward(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float, float, bool], output: tuple[Tensor, Tensor]
) -> None:
    logits, targets, scale, ctx.gamma, ctx.alpha, ctx.with_grad = inputs
    if scale.requires_grad:
        raise RuntimeError("sigmoid_focal_loss_sum: scale must not require a gradient, it would get none.")
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or backward would be handed zeros for it, as many as logits
    ctx.save_for_backward(*((output[1],) if ctx.with_grad else (logits, targets, scale)))


def _focal_loss_sum_gradient(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative("sigmoid_focal_loss")
    if grad is None:
        return (None,) * 6
    if not ctx.with_grad:
        logits, targets, scale = ctx.saved_tensors
        operator = torch.ops.fcos_core.sigmoid_focal_loss_sum
        gradient = operator(logits, targets, scale * grad, ctx.gamma, ctx.alpha, True)[1]
    else:
        (gradient,) = ctx.saved_tensors
        traced = type(gradient) is not Tensor
        if traced or torch._C._autograd._get_current_graph_task_keep_graph():
            gradient = gradient * grad  # the saved one is for the next backward through this graph
        else:
            torch.ops.fcos_core.scale_gradient_(gradient, grad)
    return gradient, None, None, None, None, None


def _save_for_group_norm_backward(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, float], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, weight, bias, *_ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, rstd)


def _group_norm_relu_gradient(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative("group_norm_relu")
    if grad is None:
        return (None,) * 5
    return *torch.ops.fcos_core.group_norm_relu_backward(grad, *ctx.saved_tensors), None, None


torch.library.register_autograd(
    "fcos_core::group_norm_relu", _group_norm_relu_gradient, setup_context=_save_for_group_norm_backward
)
torch.library.register_autograd("fcos_core::sigmoid_focal_loss", _focal_loss_gradient, setup_context=_save_for_backward)
torch.library.register_autograd(
    "fcos_core::sigmoid_focal_loss_sum", _focal_loss_sum_gradient, setup_context=_save_for_sum_backward
)
