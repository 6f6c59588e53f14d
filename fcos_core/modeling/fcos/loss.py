"""The three losses of FCOS (sec. 3.1, eq. 2; sec. 3.3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos_core.layers.iou_loss import iou_losses
from fcos_core.layers.own_dtype import without_autocast
from fcos_core.layers.sigmoid_focal_loss import SigmoidFocalLoss
from fcos_core.modeling.fcos.targets import assign_targets, centerness_targets
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils import comm


class FCOSLoss:
    """Focal loss on classes, IoU loss on boxes weighted by centerness, cross-entropy on centerness.

    Normalizers are sums over all processes, so that the gradients which DistributedDataParallel averages are
    those of the whole batch.

    Args:
        ranges: per level (lowest, highest) largest distance in pixels.
        gamma, alpha: of the focal loss.
    """

    def __init__(self, ranges: Sequence[tuple[float, float]], gamma: float, alpha: float) -> None:
        self.ranges = ranges
        self.focal_loss = SigmoidFocalLoss(gamma, alpha)

    def __call__(
        self,
        locations: Sequence[Tensor],
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        centerness: Sequence[Tensor],
        targets: Sequence[BoxList],
        batch_targets: Sequence[BoxList] | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses `loss_cls`, `loss_reg` and `loss_centerness`, in float32 or more.

        Args:
            locations: per level (L_l, 2), (x, y) in pixels.
            logits, bbox_reg, centerness: the head's outputs.
            targets: per image, boxes in pixels with field "labels", (M,) int64, 1-based.
            batch_targets: those of all images that this process adds gradients of before a step, where
                `targets` are only a part of them; losses of the parts then sum up to those of the whole.
        """
        with without_autocast(locations[0]):
            return self._losses(locations, logits, bbox_reg, centerness, targets, batch_targets)

    def _losses(
        self,
        locations: Sequence[Tensor],
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        centerness: Sequence[Tensor],
        targets: Sequence[BoxList],
        batch_targets: Sequence[BoxList] | None,
    ) -> dict[str, Tensor]:
        labels, distances, weights = self._assign(locations, targets)
        num_positive, num_images, total_weight = self._normalizers(locations, labels, weights, targets, batch_targets)
        # Background stays in the sums, as right with weight 0: to leave it out, the host would have to wait for the
        # device to know how many positives there are.
        positive = labels.flatten() > 0
        predicted = torch.where(positive[:, None], _by_location(bbox_reg), distances)
        predicted_centerness = torch.where(positive, _by_location(centerness).squeeze(1).to(weights.dtype), 0)
        loss_reg = (iou_losses(predicted, distances) * weights).sum()
        loss_centerness = F.binary_cross_entropy_with_logits(
            predicted_centerness, weights, weight=positive.to(weights.dtype), reduction="sum"
        )
        return {
            "loss_cls": self._classification(logits, labels, 1 / (num_positive + num_images)),
            # without positives the sums are 0 and stay connected to the graph
            "loss_reg": loss_reg / _or_one(total_weight),
            "loss_centerness": loss_centerness / _or_one(num_positive),
        }

    def _classification(self, logits: Sequence[Tensor], labels: Tensor, scale: Tensor) -> Tensor:
        """Focal loss of labels (N, L), summed level by level: of a channels_last level no copy is made."""
        parts = labels.split([level.shape[-2:].numel() for level in logits], dim=1)
        losses = [
            self.focal_loss(level.permute(0, 2, 3, 1).flatten(0, 2), part.flatten(), scale)
            for level, part in zip(logits, parts, strict=True)
        ]
        return torch.stack(losses).sum()

    def _assign(self, locations: Sequence[Tensor], targets: Sequence[BoxList]) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (N, L), distances (N * L, 4), 1 for background, and centerness targets (N * L,), 0 for it."""
        labels, distances = assign_targets(locations, self.ranges, targets)
        positive = labels.flatten() > 0
        distances = torch.where(positive[:, None], distances.flatten(0, 1), 1)
        return labels, distances, centerness_targets(distances) * positive

    def _normalizers(
        self,
        locations: Sequence[Tensor],
        labels: Tensor,
        weights: Tensor,
        targets: Sequence[BoxList],
        batch_targets: Sequence[BoxList] | None,
    ) -> Tensor:
        """(3,): positives, images and centerness of the whole batch, each divided by the number of processes."""
        if batch_targets is not None:
            targets = batch_targets
            labels, _, weights = self._assign(locations, targets)
        num_positive = (labels > 0).sum().to(weights.dtype)
        own = torch.stack([num_positive, weights.new_full((), len(targets)), weights.sum()])
        return comm.all_reduce_sum(own) / comm.get_world_size()


def _by_location(levels: Sequence[Tensor]) -> Tensor:
    """Levels (N, C, H_l, W_l) to (N * L, C), image by image, finest level first, row by row."""
    flat = torch.cat([level.flatten(2) for level in levels], dim=2)
    return flat.transpose(1, 2).reshape(-1, flat.shape[1])


def _or_one(normalizer: Tensor) -> Tensor:
    return torch.where(normalizer > 0, normalizer, 1)
