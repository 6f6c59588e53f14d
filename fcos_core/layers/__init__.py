"""Operators and small modules that the detector is built from.

After this import `torch.ops.fcos_core` holds all operators of the package.
"""

from fcos_core.layers import (
    _operators,
    add_relu,  # noqa: F401  registers its operator
    assign_targets,  # noqa: F401  registers its operator
    group_norm_relu,  # noqa: F401  registers its operators
)
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d
from fcos_core.layers.iou_loss import IOULoss
from fcos_core.layers.nms import batched_nms, nms, nms_mask
from fcos_core.layers.scale import Scale
from fcos_core.layers.sigmoid_focal_loss import SigmoidFocalLoss
from fcos_core.layers.sync_batch_norm import SyncBatchNorm

__all__ = [
    "FrozenBatchNorm2d",
    "IOULoss",
    "Scale",
    "SigmoidFocalLoss",
    "SyncBatchNorm",
    "batched_nms",
    "nms",
    "nms_mask",
]

_operators.warn_if_older_than_source()
