"""From head outputs to detections (FCOS, sec. 3.1 "Inference")."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fcos_core.layers.nms import batched_nms
from fcos_core.structures.bounding_box import BoxList


class FCOSPostProcessor:
    """Thresholds, decodes, suppresses and ranks.

    Of equal scores the earlier (level, location, class) goes first throughout.

    Args:
        score_threshold: candidates are classes whose probability is above this.
        pre_nms_top_n: candidates kept per level and image.
        nms_threshold: IoU above which the lesser box of a class is dropped.
        detections_per_image: detections kept per image.
    """

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
        """Detections per image, best first.

        Args:
            locations: per level (L_l, 2), (x, y) in pixels.
            logits, bbox_reg, centerness: the head's outputs.
            image_sizes: (height, width) of each image without padding.

        Returns:
            Boxes "xyxy" in pixels of the network's input, clipped to the image, with fields "scores" (M,)
            and "labels" (M,) int64, 1-based.
        """
        levels = list(zip(locations, logits, bbox_reg, centerness, strict=True))
        detections = []
        for i, (height, width) in enumerate(image_sizes):
            parts = [self._candidates(points, cls[i], reg[i], center[i]) for points, cls, reg, center in levels]
            boxes, scores, labels = (torch.cat(column) for column in zip(*parts, strict=True))
            boxes[:, 0::2].clamp_(min=0, max=width - 1)
            boxes[:, 1::2].clamp_(min=0, max=height - 1)
            keep = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.detections_per_image]
            detection = BoxList(boxes[keep], (width, height), "xyxy")
            detection.add_field("scores", scores[keep])
            detection.add_field("labels", labels[keep])
            detections.append(detection)
        return detections

    def _candidates(
        self, points: Tensor, logits: Tensor, bbox_reg: Tensor, centerness: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (K, 4), scores (K,) and labels (K,) of one level of one image, K <= pre_nms_top_n."""
        probabilities = logits.flatten(1).t().sigmoid()
        location, label = torch.nonzero(probabilities > self.score_threshold).unbind(1)
        scores = probabilities[location, label] * centerness.flatten().sigmoid()[location]
        if len(scores) > self.pre_nms_top_n:
            best = scores.sort(descending=True, stable=True).indices[: self.pre_nms_top_n]
            location, label, scores = location[best], label[best], scores[best]
        distances = bbox_reg.flatten(1).t()[location]
        x, y = points[location].unbind(1)
        left, top, right, bottom = distances.unbind(1)
        return torch.stack([x - left, y - top, x + right, y + bottom], dim=1), scores, label + 1
