"""Loads the compiled operators of csrc/ and registers what Python adds to them.

After this import `torch.ops.fcos_core` holds `nms_mask`, `sigmoid_focal_loss` and
`sigmoid_focal_loss_backward`, compiled or not. Each has a shape function, for torch.compile and torch.export,
and its pure PyTorch definition as the kernel of every device that has no compiled one. The focal loss has its
gradient registered with autograd.
"""

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fcos_core.layers._reference import (
    nms_mask_reference,
    sigmoid_focal_loss_backward_reference,
    sigmoid_focal_loss_reference,
)

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
    # the schemas of csrc/operators.cpp
    torch.library.define(
        "fcos_core::nms_mask", "(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold) -> Tensor"
    )
    torch.library.define(
        "fcos_core::sigmoid_focal_loss", "(Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor"
    )
    torch.library.define(
        "fcos_core::sigmoid_focal_loss_backward",
        "(Tensor grad, Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor",
    )


@functools.cache
def _warn_no_kernel(device_type: str) -> None:
    warnings.warn(
        f"The operators of fcos_core were compiled without kernels for {device_type}; "
        f"slower pure PyTorch ones serve. {_HOW_TO_BUILD}",
        stacklevel=2,
    )


def _serve_other_devices(name: str, definition: Callable[..., Tensor]) -> None:
    """Make `definition` the kernel of `name` on devices without a compiled one."""

    def kernel(*args: Any) -> Tensor:
        if COMPILED:
            _warn_no_kernel(args[0].device.type)
        return definition(*args)

    torch.library.impl(name, "default", func=kernel)


_serve_other_devices("fcos_core::nms_mask", nms_mask_reference)
_serve_other_devices("fcos_core::sigmoid_focal_loss", sigmoid_focal_loss_reference)
_serve_other_devices("fcos_core::sigmoid_focal_loss_backward", sigmoid_focal_loss_backward_reference)


@torch.library.register_fake("fcos_core::nms_mask")
def _nms_mask_shape(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(boxes.size(0), dtype=torch.bool)


@torch.library.register_fake("fcos_core::sigmoid_focal_loss")
def _focal_loss_shape(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@torch.library.register_fake("fcos_core::sigmoid_focal_loss_backward")
def _focal_loss_backward_shape(grad: Tensor, logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, float, float], output: Tensor) -> None:
    logits, targets, ctx.gamma, ctx.alpha = inputs
    ctx.save_for_backward(logits, targets)


def _focal_loss_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    logits, targets = ctx.saved_tensors
    gradient = torch.ops.fcos_core.sigmoid_focal_loss_backward(grad, logits, targets, ctx.gamma, ctx.alpha)
    return gradient, None, None, None


torch.library.register_autograd("fcos_core::sigmoid_focal_loss", _focal_loss_gradient, setup_context=_save_for_backward)
