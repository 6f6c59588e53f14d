"""From head outputs to detections (FCOS, sec. 3.1 "Inference")."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fcos_core.layers.nms import nms_mask
from fcos_core.modeling.fcos.box_coder import clip_boxes, decode_boxes, make_clip_max
from fcos_core.modeling.fcos.locations import by_location
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.streams import parallel


class _Candidates(NamedTuple):
    """Pairs of a location and a class, in (N, K) slots; of equal scores the earlier pair has the earlier slot."""

    scores: Tensor
    indices: Tensor  # int64, location * classes + class, both counted from 0, locations over all levels
    valid: Tensor  # bool; False marks an empty slot, whose score and index have no meaning


class FCOSPostProcessor:
    """Selects candidates by score, decodes their boxes, suppresses duplicates and keeps the best.

    Of equal scores the earlier (level, location, class) goes first throughout.

    Args:
        score_threshold: the probability of a candidate, a class at a location, is above this threshold.
        pre_nms_top_n: largest number of candidates per level and image.
        nms_threshold: a box is dropped if its IoU with a better box of the same class is above this threshold.
        detections_per_image: largest number of detections per image.
    """

    def __init__(
        self, score_threshold: float, pre_nms_top_n: int, nms_threshold: float, detections_per_image: int
    ) -> None:
        self.score_threshold, self.pre_nms_top_n = score_threshold, pre_nms_top_n
        self.nms_threshold, self.detections_per_image = nms_threshold, detections_per_image

    def __call__(
        self,
        locations: Sequence[Tensor],
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        centerness: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[BoxList]:
        """Return the detections of each image, best first, with fields "scores" (M,) and "labels" (M,) int64, 1-based.

        Boxes are "xyxy" in pixels of the network's input, clipped to the image.

        Args:
            locations: per level (L_l, 2), (x, y) in pixels.
            logits, bbox_reg, centerness: outputs of the head; half types are raised to float32.
            image_sizes: (height, width) of each image without padding.
        """
        candidates = self._candidates(locations, *_probabilities(logits, centerness))
        clip_max = make_clip_max(image_sizes).to(locations[0])
        return to_box_lists(self._detect(locations, bbox_reg, candidates, logits[0].shape[1], clip_max), image_sizes)

    def fixed_size(
        self,
        locations: Sequence[Tensor],
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        centerness: Sequence[Tensor],
        clip_max: Tensor,
    ) -> Tensor:
        """Return the same detections in a tensor whose shape depends on no value, so that the host never waits.

        The result is (N, D, 6) float32 rows for `to_box_lists`; D is `detections_per_image`, or less if the levels
        have fewer slots. `clip_max` is `make_clip_max` of the images; the head's outputs are float32 or half types.
        """
        candidates = self._fixed_candidates(locations, *_probabilities(logits, centerness))
        return self._detect(locations, bbox_reg, candidates, logits[0].shape[1], clip_max)

    def _candidates(self, locations: Sequence[Tensor], probabilities: Tensor, centerness: Tensor) -> _Candidates:
        """Select candidates into as many slots as the image with most candidates needs."""
        classes = probabilities.shape[2]
        sizes = [len(points) * classes for points in locations]
        images = []
        for image, image_centerness in zip(probabilities.flatten(1), centerness.flatten(1), strict=True):
            start, levels = 0, []
            for level in image.split(sizes):
                index = torch.nonzero(level > self.score_threshold).squeeze(1) + start
                score = image[index] * image_centerness[index // classes]
                if len(score) > self.pre_nms_top_n:
                    best = score.sort(descending=True, stable=True).indices[: self.pre_nms_top_n]
                    score, index = score[best], index[best]
                levels.append((score, index, torch.ones_like(index, dtype=torch.bool)))
                start += len(level)
            images.append([torch.cat(parts) for parts in zip(*levels, strict=True)])
        return _Candidates(*(pad_sequence(parts, batch_first=True) for parts in zip(*images, strict=True)))

    def _fixed_candidates(self, locations: Sequence[Tensor], probabilities: Tensor, centerness: Tensor) -> _Candidates:
        """Select candidates into `pre_nms_top_n` slots per level, or into one slot per pair of a smaller level."""
        classes = probabilities.shape[2]
        scores = (probabilities * centerness).flatten(1)
        keys = pack_score_and_index(scores, (probabilities > self.score_threshold).flatten(1))
        levels = keys.split([len(points) * classes for points in locations], dim=1)
        tasks = [partial(torch.topk, level, min(self.pre_nms_top_n, level.shape[1]), dim=1) for level in levels]
        valid, indices = unpack_index(torch.cat([best.values for best in parallel(tasks)], dim=1))
        return _Candidates(scores.gather(1, indices), indices, valid)

    def _detect(
        self,
        locations: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        candidates: _Candidates,
        classes: int,
        clip_max: Tensor,
    ) -> Tensor:
        """Return (N, D, 6) rows for `to_box_lists`."""
        scores, indices, valid = candidates
        images = torch.arange(len(indices), device=indices.device)[:, None]
        slots = torch.arange(indices.numel(), device=indices.device).view_as(indices)
        location = indices // classes
        labels = indices - location * classes + 1
        boxes = decode_boxes(torch.cat(list(locations))[location], _gather_rows(by_location(bbox_reg), location))
        boxes = clip_boxes(boxes, clip_max)
        # Each empty slot is a group of its own, so it suppresses no box and costs no comparison.
        groups = torch.where(valid, images * (classes + 1) + labels, -1 - slots)
        mask = nms_mask(boxes.flatten(0, 1), scores.flatten(), groups.flatten(), self.nms_threshold)
        kept = valid & mask.view_as(valid)
        rows = torch.cat([boxes, scores[..., None], labels[..., None].to(scores.dtype)], dim=2)
        rows = rows.masked_fill(~kept[..., None], 0)
        order = scores.masked_fill(~kept, -1).sort(dim=1, descending=True, stable=True).indices
        return _gather_rows(rows, order[:, : self.detections_per_image])


def to_box_lists(rows: Tensor, image_sizes: Sequence[tuple[int, int]]) -> list[BoxList]:
    """Convert rows (x1, y1, x2, y2, score, label), (N, D, 6), to a BoxList per image of (height, width).

    Label 0 marks empty rows, which come last.
    """
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
    """Return probabilities of the classes (N, L, C) and of centerness (N, L, 1), in float32 or more."""
    classes, centre = by_location(logits), by_location(centerness)
    dtype = torch.promote_types(classes.dtype, torch.float32)
    return classes.to(dtype).sigmoid(), centre.to(dtype).sigmoid()


def _gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return rows (N, K, C) of `values` (N, M, C) at `index` (N, K)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


_INVALID = -(1 << 62)
_INDEX_MASK = (1 << 32) - 1


def pack_score_and_index(scores: Tensor, valid: Tensor) -> Tensor:
    """Return (N, M) int64 keys of float32 scores (N, M) that are 0 or more.

    Sorted descending, equal scores keep the order of their index, because no two valid keys of an image are equal.
    Where `valid` (N, M) is False, the key is below all valid keys.
    """
    # Read as integers, the bits of floats from 0 up sort like the floats. Without its sign bit a NaN is above them all.
    bits = scores.view(torch.int32).long() & 0x7FFFFFFF
    index = torch.arange(scores.shape[1], device=scores.device)
    return ((bits << 32) - index).masked_fill(~valid, _INVALID)


def unpack_index(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bool validity and the int64 index of keys (N, M); the index of keys that are not valid is 0."""
    return keys > _INVALID, -keys & _INDEX_MASK
