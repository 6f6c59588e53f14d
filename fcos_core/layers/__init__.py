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
