"""Match detections with annotated boxes, as COCO's metrics do at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from pycocotools import mask

# IoU from which a detection finds a box.
FOUND = 0.5
# COCO's metrics count so many detections of an image and class, those of the highest scores.
COCO_LIMIT = 100
# Values of `Matching.match` for a detection without a box.
FALSE, ON_CROWD = -1, -2

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Boxes:
    """N boxes of a dataset.

    Attributes:
        image, category: (N,) rows of `Matching.image_ids`, and of the classes in the order of the labels, from 0.
        box: (N, 4) x, y, width and height in pixels.
    """

    image: Ints
    category: Ints
    box: Floats

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, wanted: Ints | Bools) -> Boxes:
        """Return the boxes `wanted`."""
        return Boxes(self.image[wanted], self.category[wanted], self.box[wanted])


@dataclass
class Matching:
    """N detections by descending score, and the M annotated boxes; detections that COCO does not count are left out.

    A detection looks at its best box: of its own class, of the other classes; and at the best one of its own class
    that a detection found. Crowds are not among these.

    Attributes:
        image_ids: ids of all images, ascending.
        found: the detections.
        score: (N,) of the detections.
        truth, crowd: boxes, and which of them are crowds, (M,).
        match: (N,) row of the box that a detection finds; or FALSE; or ON_CROWD, which is neither right nor wrong.
        own, other, taken: (N,) best IoU of each kind; 0 without such a box.
        own_box, other_box: (N,) row of that box; -1 without one.
        other_pairs: (K, 2) detection and box of another class, whose IoU is at least FOUND; best detection first, and
            best IoU first.
    """

    image_ids: Ints
    found: Boxes
    score: Floats
    truth: Boxes
    crowd: Bools
    match: Ints
    own: Floats
    other: Floats
    taken: Floats
    own_box: Ints
    other_box: Ints
    other_pairs: Ints = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    @property
    def right(self) -> Bools:
        return self.match >= 0

    @property
    def wrong(self) -> Bools:
        return self.match == FALSE

    def is_found(self, shown: Bools | None = None) -> Bools:
        """Return which boxes a detection finds, (M,); a detection of `shown`, (N,), if given."""
        rows = self.match[self.right if shown is None else self.right & shown]
        return np.isin(np.arange(len(self.truth)), rows)


def match(
    annotations: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    found: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    category_ids: Sequence[int],
) -> Matching:
    """Match detections with the annotations of a COCO file, as pycocotools' COCOeval does at an IoU of 0.5.

    Args:
        annotations: entries of the file.
        image_ids: of all images.
        found: image id (N,), category id (N,), box (N, 4) as x, y, width and height, and score (N,) of detections.
        category_ids: of the classes, in the order of their labels.
    """
    ids = np.unique(np.asarray(image_ids, np.int64))
    images, classes = set(image_ids), set(category_ids)
    known = [entry for entry in annotations if entry["image_id"] in images and entry["category_id"] in classes]
    truth, crowd = _truth(known, ids, category_ids)
    detections = Boxes(np.searchsorted(ids, found[0]), _labels(found[1], category_ids), found[2].astype(np.float64))
    order = _counted(detections, found[3])
    scores = found[3][order].astype(np.float64)
    own, other, taken = np.zeros((3, len(order)))
    choice, own_box, other_box = np.full((3, len(order)), FALSE)
    matching = Matching(
        ids, detections.rows(order), scores, truth, crowd, choice, own, other, taken, own_box, other_box
    )
    pairs = [_match_image(matching, *slices) for slices in _images_with_both(matching)]
    matching.other_pairs = np.concatenate([matching.other_pairs, *pairs])
    return _by_score(matching)


def _truth(annotations: list[Mapping[str, Any]], ids: Ints, category_ids: Sequence[int]) -> tuple[Boxes, Bools]:
    """Return the boxes by image, crowds last, in the order of the file; and which are crowds."""
    image = np.searchsorted(ids, np.array([entry["image_id"] for entry in annotations], np.int64))
    category = _labels(np.array([entry["category_id"] for entry in annotations], np.int64), category_ids)
    box = np.array([entry["bbox"] for entry in annotations], np.float64).reshape(-1, 4)
    crowd = np.array([bool(entry.get("iscrowd")) for entry in annotations], np.bool_)
    order = np.lexsort((crowd, image))
    return Boxes(image, category, box).rows(order), crowd[order]


def _labels(values: np.ndarray, category_ids: Sequence[int]) -> Ints:
    order = np.argsort(category_ids)
    return order[np.searchsorted(np.asarray(category_ids)[order], values)].astype(np.int64)


def _counted(found: Boxes, scores: np.ndarray) -> Ints:
    """Return the rows of the detections that count, by image and descending score."""
    by_class = np.lexsort((-scores, found.category, found.image))
    first = np.ones(len(by_class), np.bool_)
    image, category = found.image[by_class], found.category[by_class]
    first[1:] = (image[1:] != image[:-1]) | (category[1:] != category[:-1])
    starts = np.flatnonzero(first)
    rank = np.arange(len(by_class)) - np.repeat(starts, np.diff(np.append(starts, len(by_class))))
    kept = np.sort(by_class[rank < COCO_LIMIT])
    return kept[np.lexsort((-scores[kept], found.image[kept]))]


def _images_with_both(matching: Matching) -> list[tuple[slice, slice]]:
    """Return the rows of detections and of boxes of each image that has both."""
    images = np.arange(len(matching.image_ids) + 1)
    found, truth = (np.searchsorted(boxes.image, images) for boxes in (matching.found, matching.truth))
    both = np.flatnonzero((np.diff(found) > 0) & (np.diff(truth) > 0)).tolist()
    return [(slice(found[i], found[i + 1]), slice(truth[i], truth[i + 1])) for i in both]


def _match_image(matching: Matching, found: slice, truth: slice) -> Ints:
    """Fill in the rows of one image; return its `other_pairs`."""
    crowd = matching.crowd[truth]
    ious = mask.iou(matching.found.box[found], matching.truth.box[truth], crowd.astype(np.uint8))
    same = matching.found.category[found][:, None] == matching.truth.category[truth]
    choice = _choose(ious, same, crowd)
    taken = np.zeros(len(crowd), np.bool_)
    taken[choice[choice >= 0]] = True
    on_crowd = (choice >= 0) & crowd[choice]
    matching.match[found] = np.where(on_crowd, ON_CROWD, np.where(choice >= 0, choice + truth.start, FALSE))
    own, other = np.where(same & ~crowd, ious, 0), np.where(same | crowd, 0, ious)
    matching.own[found], matching.other[found] = own.max(axis=1), other.max(axis=1)
    matching.taken[found] = (own * taken).max(axis=1)
    for ious_of_kind, rows in ((own, matching.own_box), (other, matching.other_box)):
        rows[found] = np.where(ious_of_kind.max(axis=1) > 0, ious_of_kind.argmax(axis=1) + truth.start, -1)
    detection, box = np.nonzero(other >= FOUND)
    best_first = np.lexsort((-other[detection, box], detection))
    return np.stack([detection + found.start, box + truth.start], axis=1)[best_first]


def _choose(ious: Floats, same: Bools, crowd: Bools) -> Ints:
    """Choose a box of its class for each detection, best score first; -1 for none.

    A detection takes the free box of the highest IoU, of equal ones the last; and where there is none, a crowd, which
    is always free.
    """
    choice = np.full(len(ious), -1, np.int64)
    free, crowds = [True] * len(crowd), crowd.tolist()
    rows, boxes = np.nonzero(same & (ious >= FOUND))
    pairs = zip(rows.tolist(), boxes.tolist(), ious[rows, boxes].tolist(), strict=True)
    for row, group in groupby(pairs, key=itemgetter(0)):
        if choices := [(not crowds[box], iou, box) for _, box, iou in group if free[box]]:
            choice[row] = box = max(choices)[2]
            free[box] = crowds[box]
    return choice


def _by_score(matching: Matching) -> Matching:
    order = np.argsort(-matching.score, kind="stable")
    columns = ("score", "match", "own", "other", "taken", "own_box", "other_box")
    pairs = np.stack([np.argsort(order)[matching.other_pairs[:, 0]], matching.other_pairs[:, 1]], axis=1)
    return replace(
        matching,
        found=matching.found.rows(order),
        other_pairs=pairs[np.argsort(pairs[:, 0], kind="stable")],
        **{name: getattr(matching, name)[order] for name in columns},
    )
