"""From head outputs to detections (FCOS, sec. 3.1 "Inference")."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fcos_core.layers.nms import nms_mask
from fcos_core.modeling.fcos.box_coder import BoxCoder
from fcos_core.modeling.fcos.locations import by_location
from fcos_core.modeling.fcos.score import ScoreRule
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
        score_threshold: a candidate, a class at a location, is above this threshold in what `rule` compares with it.
        pre_nms_top_n: largest number of candidates per level and image.
        nms_threshold: a box is dropped if its IoU with a better box of the same class is above this threshold.
        detections_per_image: largest number of detections per image.
        coder: conventions of boxes; None: the defaults.
        rule: conventions of scores; None: the defaults.
        clip_after_nms: clip the detections to the image; False: clip the candidates.
        drop_empty: leave out boxes that have no width or no height after clipping.

    Attributes:
        gives_candidates: give all candidates, without non-maximum suppression, see `merge`.
    """

    gives_candidates = False

    def __init__(
        self,
        score_threshold: float,
        pre_nms_top_n: int,
        nms_threshold: float,
        detections_per_image: int,
        coder: BoxCoder | None = None,
        rule: ScoreRule | None = None,
        clip_after_nms: bool = False,
        drop_empty: bool = False,
    ) -> None:
        self.score_threshold, self.pre_nms_top_n = score_threshold, pre_nms_top_n
        self.nms_threshold, self.detections_per_image = nms_threshold, detections_per_image
        self.coder, self.rule = coder or BoxCoder(), rule or ScoreRule()
        self.clip_after_nms, self.drop_empty = clip_after_nms, drop_empty

    def __call__(
        self,
        locations: Sequence[Tensor],
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        quality: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[BoxList]:
        """Return the detections of each image, best first, with fields "scores" (M,) and "labels" (M,) int64, 1-based.

        Boxes are "xyxy" in pixels of the network's input, clipped to the image.

        Args:
            locations: per level (L_l, 2), (x, y) in pixels.
            logits, bbox_reg, quality: outputs of the head; half types are raised to float32.
            image_sizes: (height, width) of each image without padding.
        """
        candidates = self._candidates(locations, *_probabilities(logits, quality))
        clip_max = self.coder.clip_max(image_sizes).to(locations[0])
        return self.to_box_lists(
            self._detect(locations, bbox_reg, candidates, logits[0].shape[1], clip_max), image_sizes
        )

    def fixed_size(
        self,
        locations: Sequence[Tensor],
        logits: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        quality: Sequence[Tensor],
        clip_max: Tensor,
    ) -> Tensor:
        """Return the same detections in a tensor whose shape depends on no value, so that the host never waits.

        The result is (N, D, 6) float32 rows for `to_box_lists`; D is `detections_per_image`, or less if the levels
        have fewer slots. `clip_max` is that of `coder` for the images; the head's outputs are float32 or half types.
        """
        candidates = self._fixed_candidates(locations, *_probabilities(logits, quality))
        return self._detect(locations, bbox_reg, candidates, logits[0].shape[1], clip_max)

    def giving_candidates(self) -> FCOSPostProcessor:
        """Return a copy that gives candidates in place of detections."""
        other = copy.copy(self)
        other.gives_candidates = True
        return other

    def merge(self, candidates: BoxList) -> BoxList:
        """Return the detections among the candidates of one image, which several forward passes may have given."""
        scores, labels = candidates.get_field("scores"), candidates.get_field("labels")
        rows = torch.cat([candidates.bbox, scores[:, None], labels[:, None].to(scores.dtype)], dim=1)
        sizes = [candidates.size[::-1]]
        return self.to_box_lists(self._select(rows[None], self.coder.clip_max(sizes).to(rows)), sizes)[0]

    def _candidates(self, locations: Sequence[Tensor], probabilities: Tensor, quality: Tensor) -> _Candidates:
        """Select candidates into as many slots as the image with most candidates needs."""
        classes = probabilities.shape[2]
        sizes = [len(points) for points in locations]
        images = []
        for image, image_quality in zip(probabilities, quality, strict=True):
            start, levels = 0, []
            for level, level_quality in zip(image.split(sizes), image_quality.split(sizes), strict=True):
                compared = self.rule.score(level, level_quality) if self.rule.threshold_on_score else level
                index = torch.nonzero(compared.flatten() > self.score_threshold).squeeze(1)
                probability = level.flatten()[index]
                score = self.rule.score(probability, level_quality.flatten()[index // classes])
                if len(score) > self.pre_nms_top_n:
                    rank = probability if self.rule.rank_by_class else score
                    best = rank.sort(descending=True, stable=True).indices[: self.pre_nms_top_n].sort().values
                    score, index = score[best], index[best]
                levels.append((score, index + start, torch.ones_like(index, dtype=torch.bool)))
                start += level.numel()
            images.append([torch.cat(parts) for parts in zip(*levels, strict=True)])
        return _Candidates(*(pad_sequence(parts, batch_first=True) for parts in zip(*images, strict=True)))

    def _fixed_candidates(self, locations: Sequence[Tensor], probabilities: Tensor, quality: Tensor) -> _Candidates:
        """Select candidates into `pre_nms_top_n` slots per level, or into one slot per pair of a smaller level."""
        classes = probabilities.shape[2]
        scores = self.rule.score(probabilities, quality).flatten(1)
        probabilities = probabilities.flatten(1)
        compared = scores if self.rule.threshold_on_score else probabilities
        rank = probabilities if self.rule.rank_by_class else scores
        sizes = [points.shape[0] * classes for points in locations]
        indices, valid = self._best_of_levels(rank, compared > self.score_threshold, sizes)
        return _Candidates(scores.gather(1, indices), indices, valid)

    def _best_of_levels(self, rank: Tensor, valid: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return index and validity (N, K) of the pairs that are best by `rank` (N, M) on levels of `sizes` pairs."""
        levels = pack_score_and_index(rank, valid).split(list(sizes), dim=1)
        # In torch.export, min() would fix the size of the level.
        counts = [torch.sym_min(self.pre_nms_top_n, level.shape[1]) for level in levels]
        tasks = [partial(torch.topk, level, count, dim=1) for level, count in zip(levels, counts, strict=True)]
        valid, indices = unpack_index(torch.cat([best.values for best in parallel(tasks)], dim=1))
        if self.rule.rank_by_class:
            # Of equal scores the earlier pair goes first, not the pair of the more probable class.
            indices, order = indices.sort(dim=1)
            valid = valid.gather(1, order)
        return indices, valid

    def _detect(
        self,
        locations: Sequence[Tensor],
        bbox_reg: Sequence[Tensor],
        candidates: _Candidates,
        classes: int,
        clip_max: Tensor,
    ) -> Tensor:
        """Return (N, D, 6) rows for `to_box_lists`; all candidates, (N, K, 6), if `gives_candidates`."""
        scores, indices, valid = candidates
        location = indices // classes
        labels = indices - location * classes + 1
        boxes = self.coder.decode(torch.cat(list(locations))[location], _gather_rows(by_location(bbox_reg), location))
        if not self.clip_after_nms:
            boxes = self.coder.clip(boxes, clip_max)
            valid = valid & self.coder.has_area(boxes) if self.drop_empty else valid
        rows = torch.cat([boxes, scores[..., None], labels[..., None].to(scores.dtype)], dim=2)
        rows = rows.masked_fill(~valid[..., None], 0)
        return self._best_first(rows) if self.gives_candidates else self._select(rows, clip_max)

    def _select(self, rows: Tensor, clip_max: Tensor) -> Tensor:
        """Return (N, D, 6) rows of detections among the candidates in rows (N, K, 6)."""
        boxes, scores, labels = rows[..., :4], rows[..., 4], rows[..., 5].long()
        mask = self._kept(self.coder.for_nms(boxes), scores, labels)
        rows = self._best_first(rows.masked_fill(~mask[..., None], 0), self.detections_per_image)
        return self._clip_detections(rows, clip_max) if self.clip_after_nms else rows

    def _kept(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Return (N, K) bool, True for boxes (N, K, 4) that suppression keeps; those of label 0 are empty slots."""
        images = torch.arange(labels.shape[0], device=labels.device)[:, None]
        slots = torch.arange(labels.numel(), device=labels.device).view_as(labels)
        # Each empty slot is a group of its own, so it suppresses no box and costs no comparison.
        groups = torch.where(labels > 0, (images << 32) + labels, -1 - slots)
        mask = nms_mask(boxes.flatten(0, 1), scores.flatten(), groups.flatten(), self.nms_threshold)
        return mask.view_as(labels)

    def _best_first(self, rows: Tensor, count: int | None = None) -> Tensor:
        """Return the `count` best rows (N, K, 6), or all, by decreasing score; of equal scores the earlier is first."""
        return _gather_rows(rows, rank_of(rows).sort(dim=1, descending=True, stable=True).indices[:, :count])

    def _clip_detections(self, rows: Tensor, clip_max: Tensor) -> Tensor:
        """Clip the boxes of rows (N, D, 6); with `drop_empty`, empty the rows of boxes without area, and put them last.

        Boxes beyond `detections_per_image` do not take the place of these rows.
        """
        boxes = self.coder.clip(rows[..., :4], clip_max)
        rows = torch.cat([boxes, rows[..., 4:]], dim=2)
        if not self.drop_empty:
            return rows
        return self._best_first(rows.masked_fill(~self.coder.has_area(boxes)[..., None], 0))

    def to_box_lists(self, rows: Tensor, image_sizes: Sequence[tuple[int, int]]) -> list[BoxList]:
        """Convert rows (x1, y1, x2, y2, score, label), (N, D, 6), to a BoxList per image of (height, width).

        Label 0 marks empty rows, which come last.
        """
        boxes, scores, labels = rows.split([4, 1, 1], dim=2)
        counts = (labels > 0).sum(dim=(1, 2)).tolist()
        detections = []
        for i, (count, (height, width)) in enumerate(zip(counts, image_sizes, strict=True)):
            detection = BoxList(boxes[i, :count], (width, height), "xyxy", continuous=self.coder.continuous)
            detection.add_field("scores", scores[i, :count, 0])
            detection.add_field("labels", labels[i, :count, 0].long())
            detections.append(detection)
        return detections


def rank_of(rows: Tensor) -> Tensor:
    """Return the scores (N, K) of rows (N, K, 6), -1 for empty ones."""
    return rows[..., 4].masked_fill(rows[..., 5] == 0, -1)


def _probabilities(logits: Sequence[Tensor], quality: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the classes (N, L, C) and the quality (N, L, 1), in float32 or more."""
    classes, boxes = by_location(logits), by_location(quality)
    dtype = torch.promote_types(classes.dtype, torch.float32)
    return classes.to(dtype).sigmoid(), boxes.to(dtype).sigmoid()


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
