"""Sigmoid focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers._operators import define, refuse_second_derivative


class SigmoidFocalLoss(nn.Module):
    """Focal loss, summed over every class of every location; see `sigmoid_focal_loss`."""

    def __init__(self, gamma: float, alpha: float) -> None:
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: Tensor, targets: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the scalar `sigmoid_focal_loss_sum` of logits (N, C) and targets (N,); scale None counts as 1."""
        if scale is None:
            scale = logits.new_ones((), dtype=torch.promote_types(logits.dtype, torch.float32))
        return sigmoid_focal_loss_sum(logits, targets, scale, self.gamma, self.alpha)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}"


def sigmoid_focal_loss_sum(logits: Tensor, targets: Tensor, scale: Tensor, gamma: float, alpha: float) -> Tensor:
    """Sum `sigmoid_focal_loss` over every class of every location and multiply the sum by `scale`.

    One pass over the logits computes the sum and its gradient, so that the backward pass only multiplies this gradient
    by the upstream gradient, unless that is 1. The sum can be differentiated once. It is a scalar, float64 for float64
    logits, else float32; losses of half logits are not rounded before the sum. `scale`, a scalar tensor on the device
    of logits, is 1 / the loss's normalizer. Raise RuntimeError for arguments that `sigmoid_focal_loss` refuses, or if
    scale requires a gradient.
    """
    # A loss scaler must multiply float16 gradients before they are rounded, so the backward pass computes these.
    with_grad = torch.is_grad_enabled() and logits.requires_grad and logits.dtype != torch.float16
    scale = scale.to(torch.promote_types(logits.dtype, torch.float32))
    _check_sum(logits, targets, scale, gamma, alpha)
    return torch.ops.fcos_core.sigmoid_focal_loss_sum(logits, targets, scale, gamma, alpha, with_grad)[0]


def _check_sum(logits: Tensor, targets: Tensor, scale: Tensor, gamma: float, alpha: float) -> None:
    _check(logits, targets, gamma, alpha)
    wanted = torch.promote_types(logits.dtype, torch.float32)
    if scale.shape != () or scale.dtype != wanted or scale.device != logits.device:
        raise RuntimeError(
            f"sigmoid_focal_loss_sum: scale must be a scalar tensor of {wanted} on {logits.device}, "
            f"it is {list(scale.shape)} {scale.dtype} on {scale.device}."
        )


def _check(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> None:
    if logits.dim() != 2:
        raise RuntimeError(f"sigmoid_focal_loss: logits must have shape (N, C), they have {list(logits.shape)}.")
    if not logits.is_floating_point():
        raise RuntimeError(f"sigmoid_focal_loss: logits must be floating point, they are {logits.dtype}.")
    if targets.shape != logits.shape[:1]:
        raise RuntimeError(
            f"sigmoid_focal_loss: targets must have shape ({len(logits)},), one per row of logits, "
            f"they have {list(targets.shape)}."
        )
    if targets.dtype not in (torch.int32, torch.int64):
        raise RuntimeError(f"sigmoid_focal_loss: targets must be int32 or int64, they are {targets.dtype}.")
    if targets.device != logits.device:
        raise RuntimeError(
            "sigmoid_focal_loss: logits and targets must be on one device, they are on "
            f"{logits.device} and {targets.device}."
        )
    if not gamma >= 0:
        raise RuntimeError(f"sigmoid_focal_loss: gamma must be 0 or greater, it is {gamma}.")
    if not 0 <= alpha <= 1:
        raise RuntimeError(f"sigmoid_focal_loss: alpha must lie in [0, 1], it is {alpha}.")


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """Return the focal loss of every class at every location, in plain PyTorch and differentiable by autograd.

    With p = sigmoid(logit): `alpha * (1 - p)**gamma * -log(p)` where the class is the target,
    `(1 - alpha) * p**gamma * -log(1 - p)` where it is not, 0 in a row whose target is negative.

    Args:
        logits: (N, C) float16, bfloat16, float32 or float64; half types are computed in float32.
        targets: (N,) int32 or int64. 0 is background; c in 1..C makes class c, in column c - 1, the positive; a
            negative label is ignored. A label above C counts as background.
        gamma: focusing exponent, 0 or greater; 0 is weighted cross entropy.
        alpha: weight of the positives, in [0, 1].

    Returns:
        (N, C) losses of the dtype of logits.

    Raises:
        RuntimeError: a shape, dtype, device or number is not as above.
    """
    _check(logits, targets, gamma, alpha)
    _, truth, weight = _truth_logits(logits, targets, alpha)
    return (weight * _modulation(truth, gamma) * -F.logsigmoid(truth)).to(logits.dtype)


def sigmoid_focal_loss_sum_reference(
    logits: Tensor, targets: Tensor, scale: Tensor, gamma: float, alpha: float, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """Compute `sigmoid_focal_loss_sum` in plain PyTorch for a `scale` of the dtype of the loss.

    Return also its gradient with respect to logits, (N, C) of their dtype, rounded once; (0,) without `with_grad`.
    """
    _check_sum(logits, targets, scale, gamma, alpha)
    loss = sigmoid_focal_loss(logits.to(scale.dtype), targets, gamma, alpha).sum() * scale
    if not with_grad:
        return loss, logits.new_empty(0)
    sign, truth, weight = _truth_logits(logits, targets, alpha)
    slope = torch.sigmoid(-truth) - gamma * torch.sigmoid(truth) * F.logsigmoid(truth)
    return loss, (scale * -sign * weight * _modulation(truth, gamma) * slope).to(logits.dtype)


def _truth_logits(logits: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return sign, logit of the true answer, and weight of each element: three (N, C) tensors of float32 or float64.

    sign: +1 positive, -1 negative, 0 ignored. weight: alpha positive, 1 - alpha negative, 0 ignored.
    """
    math_dtype = torch.promote_types(logits.dtype, torch.float32)
    columns = torch.arange(1, logits.size(1) + 1, dtype=targets.dtype, device=logits.device)
    positive = targets[:, None] == columns
    counted = targets[:, None] >= 0
    sign = torch.where(positive, 1.0, -1.0).to(math_dtype) * counted
    weight = torch.where(positive, alpha, 1 - alpha).to(math_dtype) * counted
    return sign, torch.where(counted, logits.to(math_dtype), 0) * sign, weight


def _modulation(truth: Tensor, gamma: float) -> Tensor:
    """Return (1 - sigmoid(truth))**gamma as an exponential, whose derivative stays finite at a probability of 0."""
    return torch.exp(gamma * F.logsigmoid(-truth))


def _fake(
    logits: Tensor, targets: Tensor, scale: Tensor, gamma: float, alpha: float, with_grad: bool
) -> tuple[Tensor, Tensor]:
    return scale.new_empty(()), logits.new_empty(logits.shape if with_grad else 0)


def _save_for_backward(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float, float, bool], output: tuple[Tensor, Tensor]
) -> None:
    logits, targets, scale, ctx.gamma, ctx.alpha, ctx.with_grad = inputs
    if scale.requires_grad:
        raise RuntimeError("sigmoid_focal_loss_sum: scale must not require a gradient, it would get none.")
    ctx.mark_non_differentiable(output[1])
    # Without this, autograd would fill a tensor of zeros as large as the logits for the second output's gradient.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*((output[1],) if ctx.with_grad else (logits, targets, scale)))


def _backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("sigmoid_focal_loss_sum", "sigmoid_focal_loss")
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
            gradient = gradient * grad  # a later backward pass through this graph needs the saved gradient unchanged
        else:
            torch.ops.fcos_core.scale_gradient_(gradient, grad)
    return gradient, None, None, None, None, None


def _scale_gradient_reference_(gradient: Tensor, factor: Tensor) -> None:
    gradient.mul_(factor)


define(
    "sigmoid_focal_loss_sum",
    "(Tensor logits, Tensor targets, Tensor scale, float gamma, float alpha, bool with_grad) -> (Tensor, Tensor)",
    sigmoid_focal_loss_sum_reference,
    _fake,
)
# Only the backward pass calls this operator, with a factor that autograd has made: there is nothing to check.
define(
    "scale_gradient_",
    "(Tensor(a!) gradient, Tensor factor) -> ()",
    _scale_gradient_reference_,
    lambda gradient, factor: None,
)
torch.library.register_autograd("fcos_core::sigmoid_focal_loss_sum", _backward, setup_context=_save_for_backward)
