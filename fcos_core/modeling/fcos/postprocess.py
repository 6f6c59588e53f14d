"""From head outputs to detections (FCOS, sec. 3.1 "Inference")."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fcos_core.layers.nms import nms_mask
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.streams import parallel


class _Candidates(NamedTuple):
    """Pairs of a location and a class, K slots an image.

    Of equal scores of one image, the earlier (level, location, class) has the earlier slot.
    """

    scores: Tensor  # (N, K)
    indices: Tensor  # (N, K) int64, location * classes + class with locations counted over all levels
    valid: Tensor  # (N, K) bool; False: an empty slot, whose score and index mean nothing


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
            logits, bbox_reg, centerness: the head's outputs; half types are raised to float32.
            image_sizes: (height, width) of each image without padding.

        Returns:
            Boxes "xyxy" in pixels of the network's input, clipped to the image, with fields "scores" (M,)
            and "labels" (M,) int64, 1-based.
        """
        candidates = self._candidates(locations, *_probabilities(logits, centerness))
        limits = last_pixels(image_sizes).to(locations[0])
        rows = self._detect(locations, bbox_reg, candidates, logits[0].shape[1], limits)
        return to_box_lists(rows, image_sizes)

    def fixed_size(
        self,
        locations: Sequence[Tensor],
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        centerness: Sequence[Tensor],
        limits: Tensor,
    ) -> Tensor:
        """The detections of a call, in tensors whose shapes depend on no value: the host never waits.

        Args:
            locations, logits, bbox_reg, centerness: as in a call, of float32 or half types.
            limits: (N, 4), `last_pixels` of the images.

        Returns:
            (N, D, 6) float32 rows that `to_box_lists` reads; D is `detections_per_image`, or less where the levels
            have fewer candidates.
        """
        candidates = self._fixed_candidates(locations, *_probabilities(logits, centerness))
        return self._detect(locations, bbox_reg, candidates, logits[0].shape[1], limits)

    def _candidates(self, locations: Sequence[Tensor], probabilities: Tensor, centerness: Tensor) -> _Candidates:
        """As many slots as the image with most candidates needs."""
        classes = probabilities.shape[2]
        sizes = [len(points) * classes for points in locations]
        scores, indices = [], []
        for image, image_centerness in zip(probabilities.flatten(1), centerness.flatten(1), strict=True):
            start = 0
            for level in image.split(sizes):
                index = torch.nonzero(level > self.score_threshold).squeeze(1) + start
                score = image[index] * image_centerness[index // classes]
                if len(score) > self.pre_nms_top_n:
                    best = score.sort(descending=True, stable=True).indices[: self.pre_nms_top_n]
                    score, index = score[best], index[best]
                scores.append(score)
                indices.append(index)
                start += len(level)
        scores, indices = (_by_image(parts, len(sizes)) for parts in (scores, indices))
        return _Candidates(
            torch.nn.utils.rnn.pad_sequence(scores, batch_first=True),
            torch.nn.utils.rnn.pad_sequence(indices, batch_first=True),
            torch.nn.utils.rnn.pad_sequence([torch.ones_like(i, dtype=torch.bool) for i in indices], batch_first=True),
        )

    def _fixed_candidates(self, locations: Sequence[Tensor], probabilities: Tensor, centerness: Tensor) -> _Candidates:
        """`pre_nms_top_n` slots a level, or all pairs of a smaller one."""
        classes = probabilities.shape[2]
        scores = (probabilities * centerness).flatten(1)
        ranks = _ranks(scores, (probabilities > self.score_threshold).flatten(1))
        levels = ranks.split([len(points) * classes for points in locations], dim=1)
        best = parallel([partial(_largest, level, self.pre_nms_top_n) for level in levels])
        valid, indices = _read_ranks(torch.cat(best, dim=1))
        return _Candidates(scores.gather(1, indices), indices, valid)

    def _detect(
        self,
        locations: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        candidates: _Candidates,
        classes: int,
        limits: Tensor,
    ) -> Tensor:
        """(N, D, 6) rows for `to_box_lists`."""
        scores, indices, valid = candidates
        location = indices // classes
        labels = indices - location * classes + 1
        boxes = _decode(torch.cat(list(locations))[location], _taken(_by_location(bbox_reg), location))
        boxes = torch.minimum(boxes.clamp(min=0), limits[:, None])
        kept = valid & _suppress(boxes, scores, labels, valid, classes, self.nms_threshold)
        rows = torch.cat([boxes, scores[..., None], labels[..., None].to(scores.dtype)], dim=2)
        rows = rows.masked_fill(~kept[..., None], 0)
        order = scores.masked_fill(~kept, -1).sort(dim=1, descending=True, stable=True).indices
        return _taken(rows, order[:, : self.detections_per_image])


def last_pixels(image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(N, 4) float32 on the CPU: (x, y, x, y) of the last pixel of images of (height, width)."""
    return torch.tensor([[width - 1, height - 1] * 2 for height, width in image_sizes], dtype=torch.float32)


def to_box_lists(rows: Tensor, image_sizes: Sequence[tuple[int, int]]) -> list[BoxList]:
    """BoxLists of rows (x1, y1, x2, y2, score, label), (N, D, 6); label 0 marks the empty ones, which come last."""
    boxes, scores, labels = rows.split([4, 1, 1], dim=2)
    counts = (labels > 0).sum(dim=(1, 2)).tolist()
    detections = []
    for i, (count, (height, width)) in enumerate(zip(counts, image_sizes, strict=True)):
        detection = BoxList(boxes[i, :count], (width, height), "xyxy")
        detection.add_field("scores", scores[i, :count, 0])
        detection.add_field("labels", labels[i, :count, 0].long())
        detections.append(detection)
    return detections


def _probabilities(logits: Sequence[Tensor], centerness: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of the classes (N, L, C) and of the centerness (N, L, 1), locations of all levels in order."""
    return tuple(
        level.to(torch.promote_types(level.dtype, torch.float32)).sigmoid()
        for level in (_by_location(logits), _by_location(centerness))
    )


def _by_location(levels: Sequence[Tensor]) -> Tensor:
    """Levels (N, C, H_l, W_l) to (N, L, C); channels-last levels are laid out like that already."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)


def _by_image(parts: Sequence[Tensor], levels: int) -> list[Tensor]:
    return [torch.cat(parts[i : i + levels]) for i in range(0, len(parts), levels)]


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """(N, M, C) at (N, K), along dimension 1."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


_NO_RANK = -(1 << 62)
_INDEX_MASK = (1 << 32) - 1


def _ranks(scores: Tensor, valid: Tensor) -> Tensor:
    """(N, M) int64 that order the pairs: by score, equal scores by index, all different; then what is not valid."""
    # The bits of floats from 0 up are in the order of the floats; without the sign bit, a NaN is above them all.
    bits = scores.view(torch.int32).long() & 0x7FFFFFFF
    index = torch.arange(scores.shape[1], device=scores.device)
    return ((bits << 32) - index).masked_fill(~valid, _NO_RANK)


def _read_ranks(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each of `_ranks` is valid, and its index; 0 where it is not."""
    return ranks > _NO_RANK, -ranks & _INDEX_MASK


def _largest(ranks: Tensor, count: int) -> Tensor:
    return ranks.topk(min(count, ranks.shape[1]), dim=1).values


def _decode(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (N, K, 4) from points (N, K, 2) and their distances to the sides (N, K, 4)."""
    x, y = points.unbind(-1)
    left, top, right, bottom = distances.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)


def _suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, classes: int, iou_threshold: float
) -> Tensor:
    """(N, K) bool: what non-maximum suppression in each class of each image keeps."""
    image = torch.arange(len(labels), device=labels.device)[:, None]
    slot = torch.arange(labels.numel(), device=labels.device).view_as(labels)
    # An empty slot is a group of its own: it suppresses nothing, and costs nothing.
    groups = torch.where(valid, image * (classes + 1) + labels, -1 - slot)
    return nms_mask(boxes.flatten(0, 1), scores.flatten(), groups.flatten(), iou_threshold).view_as(valid)
