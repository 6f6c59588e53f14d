"""Run the detector as its published code does: eager, float32, BatchNorm unfolded, one image and one class at a time.

Results equal the detector's; the algorithms are maskrcnn-benchmark's.
"""

import contextlib
from collections.abc import Iterator, Sequence
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from fcos_core.config import Config
from fcos_core.config import cfg as defaults
from fcos_core.errors import InputError
from fcos_core.layers import conv_norm, fold_together
from fcos_core.layers.iou_loss import iou_losses
from fcos_core.layers.sigmoid_focal_loss import sigmoid_focal_loss
from fcos_core.modeling.detector import Detector
from fcos_core.modeling.fcos.targets import DEFAULT_RANGES, TargetAssigner, centerness_targets
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList

# Options of FCOS and of other frameworks' detectors that HRNet-FCOS's losses, targets and post-processing do not have.
_NOT_PLAIN = (
    "CENTER_SAMPLING_RADIUS",
    "IOU_LOSS_TYPE",
    "NORM_REG_TARGETS",
    "BOX_QUALITY",
    "LOSS_NORMALIZER",
    "SCORE",
    "CANDIDATES",
    "RANK_BY",
    "LOCATIONS",
    "PIXELS",
    "CLIP",
    "DROP_EMPTY",
)


class PlainPostProcessor:
    """Post-processing with the arguments and results of `FCOSPostProcessor`."""

    def __init__(
        self, score_threshold: float, pre_nms_top_n: int, nms_threshold: float, detections_per_image: int
    ) -> None:
        self.score_threshold = score_threshold
        self.pre_nms_top_n = pre_nms_top_n
        self.nms_threshold = nms_threshold
        self.detections_per_image = detections_per_image

    def __call__(
        self,
        locations: Sequence[Tensor],
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        centerness: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[BoxList]:
        levels = [
            self._level(*level, image_sizes) for level in zip(locations, logits, bbox_reg, centerness, strict=True)
        ]
        images = []
        for size, parts in zip(image_sizes, zip(*levels, strict=True), strict=True):
            boxes, scores, labels = (torch.cat(column) for column in zip(*parts, strict=True))
            images.append(self._detections(boxes, scores, labels, logits[0].shape[1], size))
        return images

    def _level(
        self,
        points: Tensor,
        logits: Tensor,
        bbox_reg: Tensor,
        centerness: Tensor,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return, per image, boxes (K, 4), scores (K,) and labels (K,) of one level."""
        probabilities = logits.permute(0, 2, 3, 1).flatten(1, 2).sigmoid()
        distances = bbox_reg.permute(0, 2, 3, 1).flatten(1, 2)
        centerness = centerness.flatten(1).sigmoid()
        candidates = probabilities > self.score_threshold
        probabilities = probabilities * centerness[:, :, None]
        found = []
        for i, (height, width) in enumerate(image_sizes):
            scores = probabilities[i][candidates[i]]
            location, label = candidates[i].nonzero().unbind(1)
            if candidates[i].sum().item() > self.pre_nms_top_n:
                scores, best = scores.topk(self.pre_nms_top_n, sorted=False)
                location, label = location[best], label[best]
            (x, y), (left, top, right, bottom) = points[location].unbind(1), distances[i][location].unbind(1)
            x1, x2 = ((x - left).clamp(0, width - 1), (x + right).clamp(0, width - 1))
            y1, y2 = ((y - top).clamp(0, height - 1), (y + bottom).clamp(0, height - 1))
            found.append((torch.stack([x1, y1, x2, y2], dim=1), scores, label + 1))
        return found

    def _detections(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, num_classes: int, size: tuple[int, int]
    ) -> BoxList:
        kept = []
        # Boxes include their last pixel, torchvision's NMS excludes it: move the ends one pixel further.
        ends = boxes + boxes.new_tensor([0, 0, 1, 1])
        for label in range(1, num_classes + 1):
            own = (labels == label).nonzero().squeeze(1)
            kept.append(own[nms(ends[own], scores[own], self.nms_threshold)])
        kept = torch.cat(kept)
        if len(kept) > self.detections_per_image:
            rank = len(kept) - self.detections_per_image + 1
            least = scores[kept].cpu().kthvalue(rank).values.item()
            kept = kept[scores[kept] >= least]
        detections = BoxList(boxes[kept], size[::-1])
        detections.add_field("scores", scores[kept])
        detections.add_field("labels", labels[kept])
        return detections


class PlainAssigner(TargetAssigner):
    """Assign training targets for `PlainLoss`."""

    def __call__(
        self,
        level_sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
        targets: Sequence[BoxList],
        dtype: torch.dtype,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Return labels (N, L) and distances (N, L, 4)."""
        return broadcast_targets(self.locations(level_sizes, padded_size, dtype, device), self.ranges, targets)


class PlainLoss:
    """The three losses, as `FCOSLoss` gives them in one process for a whole batch."""

    def __init__(self, gamma: float, alpha: float) -> None:
        self.gamma = gamma
        self.alpha = alpha

    def __call__(
        self,
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        centerness: Sequence[Tensor],
        targets: tuple[Tensor, Tensor],
    ) -> dict[str, Tensor]:
        num_images = len(targets[0])
        labels, distances = (assigned.flatten(0, 1) for assigned in targets)
        logits, bbox_reg, centerness = (_rows(levels) for levels in (logits, bbox_reg, centerness))
        positive = (labels > 0).nonzero().squeeze(1)
        losses = sigmoid_focal_loss(logits, labels, self.gamma, self.alpha)
        weights = centerness_targets(distances[positive])
        loss_reg = (iou_losses(bbox_reg[positive], distances[positive]) * weights).sum()
        loss_centerness = F.binary_cross_entropy_with_logits(centerness[positive, 0], weights, reduction="sum")
        if positive.numel() > 0:
            loss_reg, loss_centerness = loss_reg / weights.sum(), loss_centerness / positive.numel()
        return {
            "loss_cls": losses.sum() / (positive.numel() + num_images),
            "loss_reg": loss_reg,
            "loss_centerness": loss_centerness,
        }


def broadcast_targets(
    locations: Sequence[Tensor], ranges: Sequence[tuple[float, float]], targets: Sequence[BoxList]
) -> tuple[Tensor, Tensor]:
    """Do the work of `assign_targets` by broadcasting every location against every box of its image.

    Args:
        locations: per level (L_l, 2), (x, y) in pixels.
        ranges: per level (lowest, highest) largest distance in pixels.
        targets: per image M boxes in pixels with field "labels".

    Returns:
        Labels (N, L) and distances (N, L, 4). The distances of an image to all its boxes, (L, M, 4), are in memory.
    """
    points = torch.cat(list(locations))
    bounds = torch.cat([p.new_tensor(pair).expand(len(p), 2) for p, pair in zip(locations, ranges, strict=True)])
    labels, distances = [], []
    for target in targets:
        boxes, areas = target.bbox.to(points), target.area().to(points)
        sides = torch.stack(
            [
                points[:, None, 0] - boxes[None, :, 0],
                points[:, None, 1] - boxes[None, :, 1],
                boxes[None, :, 2] - points[:, None, 0],
                boxes[None, :, 3] - points[:, None, 1],
            ],
            dim=2,
        )
        largest = sides.max(dim=2).values
        fits = (sides.min(dim=2).values > 0) & (largest >= bounds[:, :1]) & (largest <= bounds[:, 1:])
        area, index = areas.repeat(len(points), 1).masked_fill(~fits, torch.inf).min(dim=1)
        labels.append(target.get_field("labels").to(points.device)[index].masked_fill(area == torch.inf, 0))
        distances.append(sides[torch.arange(len(points), device=points.device), index])
    return torch.stack(labels), torch.stack(distances)


class PlainTrainingStep:
    """A step of SGD in float32; a call with images and targets on one device returns the losses."""

    def __init__(self, model: Detector, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer

    def __call__(self, images: ImageList, targets: Sequence[BoxList]) -> dict[str, Tensor]:
        with unfolded():
            losses = self.model(images, targets)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()
        return losses


@contextlib.contextmanager
def unfolded() -> Iterator[None]:
    """Keep normalizations out of convolutions in training inside the context."""
    with contextlib.ExitStack() as stack:
        for module in (conv_norm, fold_together):
            stack.enter_context(mock.patch.object(module, "has_fixed_statistics", lambda norm: False))
        yield


def make_plain(cfg: Config, detector: Detector) -> Detector:
    """Replace target assignment, loss and post-processing of `detector` by the plain versions; return `detector`.

    Raise InputError if the config sets an option that the plain versions do not have.
    """
    fcos = cfg.MODEL.FCOS
    other = [f"MODEL.FCOS.{key} {fcos[key]}" for key in _NOT_PLAIN if fcos[key] != defaults.MODEL.FCOS[key]]
    if other:
        raise InputError(
            f"The benchmark's plain detector is HRNet-FCOS's and has no {', '.join(other)}: choose a model without it."
        )
    ranges = fcos.TARGET_ASSIGN or DEFAULT_RANGES[len(fcos.FPN_STRIDES)]
    detector.rpn.assigner = PlainAssigner(fcos.FPN_STRIDES, ranges)
    detector.rpn.loss = PlainLoss(fcos.LOSS_GAMMA, fcos.LOSS_ALPHA)
    detector.rpn.postprocess = PlainPostProcessor(
        fcos.INFERENCE_TH, fcos.PRE_NMS_TOP_N, fcos.NMS_TH, cfg.TEST.DETECTIONS_PER_IMG
    )
    return detector


def make_plain_optimizer(cfg: Config, model: nn.Module) -> torch.optim.SGD:
    """Make PyTorch's SGD with one group per parameter."""
    solver = cfg.SOLVER
    groups = [
        {
            "params": [parameter],
            "lr": solver.BASE_LR * (solver.BIAS_LR_FACTOR if "bias" in name else 1),
            "weight_decay": solver.WEIGHT_DECAY_BIAS if "bias" in name else solver.WEIGHT_DECAY,
        }
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    return torch.optim.SGD(groups, momentum=solver.MOMENTUM)


def _rows(levels: Sequence[Tensor]) -> Tensor:
    """Flatten levels (N, C, H_l, W_l) to (N * L, C), image by image, finest level first."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1).flatten(0, 1)
