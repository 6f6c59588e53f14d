"""The three losses of FCOS (sec. 3.1, eq. 2; sec. 3.3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos_core.errors import InputError
from fcos_core.layers.iou_loss import iou_losses
from fcos_core.layers.own_dtype import without_autocast
from fcos_core.layers.sigmoid_focal_loss import SigmoidFocalLoss
from fcos_core.modeling.fcos.locations import by_location
from fcos_core.modeling.fcos.targets import AssignedTargets


class FCOSLoss:
    """Focal loss (`gamma`, `alpha`) on classes, IoU loss weighted by centerness, cross-entropy on centerness."""

    def __init__(self, gamma: float, alpha: float) -> None:
        self.focal_loss = SigmoidFocalLoss(gamma, alpha)

    def __call__(
        self,
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        centerness: Sequence[Tensor],
        targets: AssignedTargets,
    ) -> dict[str, Tensor]:
        """Return scalar losses `loss_cls`, `loss_reg` and `loss_centerness` of the head's outputs, float32 or more.

        Losses of the parts of a batch add up to the losses of the whole batch. Raise InputError if the levels have
        other sizes than the targets.
        """
        _check_level_sizes(logits, targets)
        with without_autocast(logits[0]):
            normalizers = targets.normalizers
            loss_cls = self._classification(logits, targets.labels, 1 / (normalizers.positives + normalizers.images))
            # Background locations stay in the sums with weight 0, as if predicted correctly: to leave them out, the
            # host would have to wait until the device knows how many locations are positive.
            positive = targets.labels > 0
            predicted = torch.where(positive[..., None], by_location(bbox_reg), targets.distances)
            loss_reg = (iou_losses(predicted, targets.distances) * targets.centerness).sum()
            dtype = targets.centerness.dtype
            predicted_centerness = torch.where(positive, by_location(centerness).squeeze(2).to(dtype), 0)
            loss_centerness = F.binary_cross_entropy_with_logits(
                predicted_centerness, targets.centerness, weight=positive.to(dtype), reduction="sum"
            )
            return {
                "loss_cls": loss_cls,
                # Without positives the sums are 0 and stay connected to the graph.
                "loss_reg": loss_reg / _or_one(normalizers.centerness),
                "loss_centerness": loss_centerness / _or_one(normalizers.positives),
            }

    def _classification(self, logits: Sequence[Tensor], labels: Tensor, scale: Tensor) -> Tensor:
        """Sum the focal loss of labels (N, L) level by level, so that channels-last levels are not copied."""
        parts = labels.split([level.shape[-2:].numel() for level in logits], dim=1)
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
