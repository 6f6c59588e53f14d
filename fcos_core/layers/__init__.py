"""Operators and small modules that the detector is built from.

After this import `torch.ops.fcos_core` holds all operators of the package.
"""

from fcos_core.layers import (
    _operators,
    add_relu,  # noqa: F401  registers its operator
    assign_targets,  # noqa: F401  registers its operator
    group_norm_relu,  # noqa: F401  registers its operators
)
from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d
from fcos_core.layers.iou_loss import IOULoss
from fcos_core.layers.nms import batched_nms, nms, nms_mask
from fcos_core.layers.scale import Scale
from fcos_core.layers.sigmoid_focal_loss import SigmoidFocalLoss
from fcos_core.layers.sync_batch_norm import SyncBatchNorm
from fcos_core.published_scripts.layers import (  # only scripts use these names
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    interpolate,
    ml_nms,
    smooth_l1_loss,
)

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "DFConv2d",
    "FrozenBatchNorm2d",
    "IOULoss",
    "Scale",
    "SigmoidFocalLoss",
    "SyncBatchNorm",
    "batched_nms",
    "interpolate",
    "ml_nms",
    "nms",
    "nms_mask",
    "smooth_l1_loss",
]

_operators.warn_if_older_than_source()
