"""The three losses of FCOS (sec. 3.1, eq. 2; sec. 3.3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos_core.errors import InputError
from fcos_core.layers.iou_loss import iou_losses, ious
from fcos_core.layers.own_dtype import without_autocast
from fcos_core.layers.sigmoid_focal_loss import SigmoidFocalLoss
from fcos_core.modeling.fcos.locations import by_location
from fcos_core.modeling.fcos.targets import AssignedTargets


class FCOSLoss:
    """Focal loss on classes, IoU loss on boxes, cross-entropy on the quality of boxes.

    Args:
        gamma, alpha: of the focal loss.
        iou_loss_type: as in `layers.IOULoss`.
        normalized: True if the IoU is that of distances divided by the stride of their level.
        box_quality: "ctrness": the quality is the centerness of the location, which also weights the IoU loss.
            "iou": it is the IoU of the predicted box with its target, and the IoU loss has no weights.
        normalizer: divisor of the focal loss: "positives_and_images", the number of positive locations and of images;
            "positives", the number of positive locations, at least 1.
    """

    def __init__(
        self,
        gamma: float,
        alpha: float,
        iou_loss_type: str = "iou",
        normalized: bool = False,
        box_quality: str = "ctrness",
        normalizer: str = "positives_and_images",
    ) -> None:
        self.focal_loss = SigmoidFocalLoss(gamma, alpha)
        self.iou_loss_type, self.normalized = iou_loss_type, normalized
        self.box_quality, self.normalizer = box_quality, normalizer

    def __call__(
        self,
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        quality: Sequence[Tensor],
        targets: AssignedTargets,
    ) -> dict[str, Tensor]:
        """Return scalar losses `loss_cls`, `loss_reg` and `loss_centerness` of the head's outputs, float32 or more.

        `loss_centerness` is the loss of the quality, whichever it is. Losses of the parts of a batch add up to the
        losses of the whole batch. Raise InputError if the levels have other sizes than the targets.
        """
        _check_level_sizes(logits, targets)
        with without_autocast(logits[0]):
            # Background locations stay in the sums with weight 0, as if predicted correctly: to leave them out, the
            # host would have to wait until the device knows how many locations are positive.
            positive = targets.labels > 0
            predicted = torch.where(positive[..., None], by_location(bbox_reg), targets.distances)
            dtype = targets.centerness.dtype
            predicted_quality = torch.where(positive, by_location(quality).squeeze(2).to(dtype), 0)
            weights = positive.to(dtype)
            loss_reg, quality_targets = self._boxes(predicted, weights, targets)
            loss_quality = F.binary_cross_entropy_with_logits(
                predicted_quality, quality_targets, weight=weights, reduction="sum"
            )
            return {
                "loss_cls": self._classification(logits, targets),
                "loss_reg": loss_reg,
                "loss_centerness": loss_quality / targets.normalizers.positives_or_one,
            }

    def _boxes(self, predicted: Tensor, weights: Tensor, targets: AssignedTargets) -> tuple[Tensor, Tensor]:
        """Return the IoU loss of predicted distances (N, L, 4) and the targets (N, L) of the quality.

        `weights` (N, L) are 1 for locations with a box, 0 for others.
        """
        normalizers, actual = targets.normalizers, targets.distances
        if self.normalized:
            predicted, actual = predicted / targets.strides[:, None], actual / targets.strides[:, None]
        losses = iou_losses(predicted, actual, self.iou_loss_type)
        # Without positives the sums are 0 and stay connected to the graph.
        if self.box_quality == "iou":
            return (losses * weights).sum() / normalizers.positives_or_one, ious(predicted.detach(), actual)
        return (losses * targets.centerness).sum() / _or_one(normalizers.centerness), targets.centerness

    def _classification(self, logits: Sequence[Tensor], targets: AssignedTargets) -> Tensor:
        """Sum the focal loss level by level, so that channels-last levels are not copied."""
        normalizers = targets.normalizers
        if self.normalizer == "positives":
            scale = 1 / normalizers.positives_or_one
        else:
            scale = 1 / (normalizers.positives + normalizers.images)
        parts = targets.labels.split([level.shape[-2:].numel() for level in logits], dim=1)
        losses = [
            self.focal_loss(level.permute(0, 2, 3, 1).flatten(0, 2), part.flatten(), scale)
            for level, part in zip(logits, parts, strict=True)
        ]
        return torch.stack(losses).sum()


def _check_level_sizes(levels: Sequence[Tensor], targets: AssignedTargets) -> None:
    sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
    if sizes != targets.level_sizes:
        raise InputError(
            f"The backbone gives levels of (height, width) {sizes}, but targets were assigned to levels of "
            f"{targets.level_sizes}. The backbone needs a method level_sizes(height, width) that returns the sizes "
            "of its levels for padded images of this size."
        )


def _or_one(normalizer: Tensor) -> Tensor:
    return torch.where(normalizer > 0, normalizer, 1)
