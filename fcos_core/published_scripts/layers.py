"""Published names of `layers` that PyTorch itself has today."""

import torch.nn.functional as F
from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, ConvTranspose2d
from torch.nn.functional import interpolate

from fcos_core.layers.nms import batched_nms

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d", "interpolate", "ml_nms", "smooth_l1_loss"]


def ml_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Return the (K,) indices that `batched_nms` keeps, best first; `labels` (N,) may be floating point."""
    return batched_nms(boxes, scores, labels.long(), iou_threshold)


def smooth_l1_loss(input: Tensor, target: Tensor, beta: float = 1.0 / 9, size_average: bool = True) -> Tensor:
    """Return the mean, or the sum, of PyTorch's smooth L1 loss: quadratic below `beta`, linear above."""
    return F.smooth_l1_loss(input, target, reduction="mean" if size_average else "sum", beta=beta)
