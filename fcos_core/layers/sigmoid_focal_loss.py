"""The sigmoid focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3)."""

import torch
from torch import Tensor, nn

from fcos_core.layers import _operators  # noqa: F401  registers torch.ops.fcos_core
from fcos_core.layers._reference import sigmoid_focal_loss_reference

__all__ = ["SigmoidFocalLoss", "sigmoid_focal_loss", "sigmoid_focal_loss_reference", "sigmoid_focal_loss_sum"]


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """The focal loss of every class at every location. It can be differentiated once with respect to logits.

    With p = sigmoid(logit): `alpha * (1 - p)**gamma * -log(p)` where the class is the target,
    `(1 - alpha) * p**gamma * -log(1 - p)` where it is not, 0 in a row whose target is negative.

    Args:
        logits: (N, C) float16, bfloat16, float32 or float64; half types are computed in float32 inside.
        targets: (N,) int32 or int64. 0 is background; c in 1..C makes class c, column c - 1, the positive; a
            negative label is ignored. A label above C is no column's positive, as 0 is.
        gamma: focusing exponent, 0 or greater; 0 is weighted cross entropy.
        alpha: weight of the positives, in [0, 1].

    Returns:
        (N, C) losses of the dtype of logits.

    Raises:
        RuntimeError: a shape, dtype, device or number is not as above.
    """
    return torch.ops.fcos_core.sigmoid_focal_loss(logits, targets, gamma, alpha)


def sigmoid_focal_loss_sum(logits: Tensor, targets: Tensor, scale: Tensor, gamma: float, alpha: float) -> Tensor:
    """The sum of `sigmoid_focal_loss` over every class of every location, times `scale`.

    One pass over the logits gives the sum and its gradient, which the backward pass multiplies by what comes from
    above; where that is 1, it does nothing. It can be differentiated once.

    Args:
        logits, targets, gamma, alpha: those of `sigmoid_focal_loss`. Half logits are not rounded before the sum.
        scale: scalar tensor without gradient on the device of logits, one over the loss' normalizer.

    Returns:
        A scalar: float64 for float64 logits, else float32.

    Raises:
        RuntimeError: a shape, dtype, device or number is not as above, or scale requires a gradient.
    """
    # A loss scaler multiplies float16 gradients before they are rounded: they are computed in the backward pass.
    with_grad = torch.is_grad_enabled() and logits.requires_grad and logits.dtype != torch.float16
    scale = scale.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.ops.fcos_core.sigmoid_focal_loss_sum(logits, targets, scale, gamma, alpha, with_grad)[0]


class SigmoidFocalLoss(nn.Module):
    """The focal loss summed over every class of every location.

    Args:
        gamma: focusing exponent, 0 or greater.
        alpha: weight of the positives, in [0, 1].
    """

    def __init__(self, gamma: float, alpha: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, targets: Tensor, scale: Tensor | None = None) -> Tensor:
        """`sigmoid_focal_loss_sum`, a scalar: float32 for half logits, else of their dtype.

        Args:
            logits: (N, C) floating point.
            targets: (N,) int32 or int64, 0 background, 1..C the class, negative ignored.
            scale: scalar that the sum is multiplied by, 1 without it.
        """
        if scale is None:
            scale = logits.new_ones((), dtype=torch.promote_types(logits.dtype, torch.float32))
        return sigmoid_focal_loss_sum(logits, targets, scale, self.gamma, self.alpha)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}"
