"""Analyse detections: best thresholds, confusions, kinds of errors and the AP that each kind costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fcos_core.evaluation.matching import FALSE, FOUND, ON_CROWD, Bools, Floats, Ints, Matching

# IoU up to which a detection lies on the background, for the kinds of errors.
BACKGROUND = 0.1
KINDS = ("class", "location", "both", "duplicate", "background", "missed")
# Score from which detections count where no threshold is given or found for their class.
DEFAULT_THRESHOLD = 0.3
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Best:
    """The threshold of the best F-measure of a class, and precision, recall and F-measure with it."""

    threshold: float
    precision: float
    recall: float
    f: float


def best_thresholds(matching: Matching, num_classes: int) -> list[Best | None]:
    """Find the score of each class from which its detections have the best F-measure 2PR / (P + R) at an IoU of 0.5.

    Of equal F-measures the highest score wins. A class of which no detection finds a box has no best threshold: None.
    Detections on crowds do not count.
    """
    boxes = np.bincount(matching.truth.category[~matching.crowd], minlength=num_classes)
    best: list[Best | None] = []
    for category, rows in enumerate(_rows_of_classes(matching.found.category, num_classes)):
        rows = rows[matching.right[rows] | matching.wrong[rows]]
        score, right = matching.score[rows], np.cumsum(matching.right[rows])
        # Detections of one score are all kept or none.
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(rows) else rows
        f = 2 * right[last] / (last + 1 + boxes[category])
        if not f.size or not f.max():
            best.append(None)
            continue
        row = last[f.argmax()]
        precision, recall = right[row] / (row + 1), right[row] / boxes[category]
        best.append(Best(float(score[row]), float(precision), float(recall), float(f.max())))
    return best


def shown(matching: Matching, best: list[Best | None]) -> Bools:
    """Return the detections of at least the best threshold of their class, or DEFAULT_THRESHOLD without one, (N,)."""
    thresholds = np.array([entry.threshold if entry else DEFAULT_THRESHOLD for entry in best])
    return matching.score >= thresholds[matching.found.category]


def confusion_matrix(matching: Matching, shown: Bools, num_classes: int) -> Ints:
    """Count detections of `shown` by true class (rows) and detected class (columns), (C + 1, C + 1).

    The last row is the background, the last column the missed boxes. First detections find boxes of their class; then
    the others, best score first, take the box of another class that has the highest IoU of at least 0.5 and is left.
    Detections on crowds do not count.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    left, boxes_left = shown & matching.wrong, ~matching.is_found(shown) & ~matching.crowd
    right = matching.found.category[shown & matching.right]
    np.add.at(matrix, (right, right), 1)
    for row, box in matching.other_pairs[left[matching.other_pairs[:, 0]]].tolist():
        if left[row] and boxes_left[box]:
            matrix[matching.truth.category[box], matching.found.category[row]] += 1
            left[row] = boxes_left[box] = False
    np.add.at(matrix[-1], matching.found.category[left], 1)
    np.add.at(matrix[:, -1], matching.truth.category[boxes_left], 1)
    return matrix


@dataclass(frozen=True)
class Errors:
    """The errors of detections by kind, after Bolya et al., TIDE, ECCV 2020, section 2.2.

    Attributes:
        rows: kind to rows of detections, best score first; for "missed" to rows of boxes, largest first.
        ap50: mean of the classes' AP at an IoU of 0.5.
        gains: kind to the gain of `ap50` if its errors are mended.
    """

    rows: Mapping[str, Ints]
    ap50: float
    gains: Mapping[str, float]


def errors_by_kind(matching: Matching, num_classes: int) -> Errors:
    """Sort every false detection into the first of the kinds that applies to it, and find boxes that are missed.

    - location: its best box of its class has an IoU from 0.1 to 0.5;
    - class: its best box of another class has an IoU of at least 0.5;
    - duplicate: a box of its class with an IoU of at least 0.5 was found by a better detection;
    - background: no box has an IoU above 0.1;
    - both: the rest, which lies between 0.1 and 0.5 off a box of another class;
    - missed: a box that is not found, and that no error of class or location would find if it were mended.
    """
    location = (matching.own >= BACKGROUND) & (matching.own <= FOUND)
    nowhere = np.maximum(matching.own, matching.other) <= BACKGROUND
    tests = {
        "location": location,
        "class": matching.other >= FOUND,
        "duplicate": matching.taken >= FOUND,
        "background": nowhere,
    }
    kinds, rest = {}, matching.wrong
    for kind, test in tests.items():
        kinds[kind], rest = np.flatnonzero(rest & test), rest & ~test
    kinds["both"] = np.flatnonzero(rest)
    aim = np.full(len(matching.score), FALSE)
    aim[kinds["location"]] = matching.own_box[kinds["location"]]
    aim[kinds["class"]] = matching.other_box[kinds["class"]]
    lost = ~matching.is_found() & ~matching.crowd
    # Of the detections that aim at a box that is not found, the best.
    aiming = np.flatnonzero(aim >= 0)
    boxes, firsts = np.unique(aim[aiming], return_index=True)
    aim[:] = FALSE
    aim[aiming[firsts]] = np.where(lost[boxes], boxes, FALSE)
    lost[boxes] = False
    kinds["missed"] = np.flatnonzero(lost)[np.argsort(-matching.truth.box[lost, 2:].prod(axis=1), kind="stable")]
    counts = np.bincount(matching.truth.category[~matching.crowd], minlength=num_classes)
    counted = matching.match != ON_CROWD
    ap50 = _mean_ap(matching.found.category[counted], matching.right[counted], counts, counts)
    gains = {kind: max(_mended(matching, kind, kinds[kind], aim, counts) - ap50, 0.0) for kind in KINDS}
    return Errors({kind: kinds[kind] for kind in KINDS}, ap50, gains)


def _mended(matching: Matching, kind: str, rows: Ints, aim: Ints, counts: Ints) -> float:
    """Return the mean AP at an IoU of 0.5 with the errors `rows` of `kind` mended, as TIDE mends them.

    An error of class or location becomes right if it is the best that aims at a box that is not found, `aim`, (N,);
    all others are taken out. Missed boxes are taken out of the boxes, whose numbers are `counts`, (C,).
    """
    category, right, counted = matching.found.category.copy(), matching.right, matching.match != ON_CROWD
    left = counts
    if kind == "missed":
        left = counts - np.bincount(matching.truth.category[rows], minlength=len(counts))
    else:
        mended = rows[aim[rows] >= 0]
        counted[rows] = False
        category[mended], right[mended], counted[mended] = matching.truth.category[aim[mended]], True, True
    return _mean_ap(category[counted], right[counted], counts, left)


def _mean_ap(category: Ints, right: Bools, counts: Ints, left: Ints) -> float:
    """Return the mean of the classes' AP as COCO computes it; -1 without a class that has a box.

    Args:
        category, right: of detections by descending score.
        counts, left: (C,) numbers of boxes, and of those that are left. As in TIDE, a class that loses all its boxes
            counts as 0 if it has detections.
    """
    values = []
    for rows, before, after in zip(_rows_of_classes(category, len(counts)), counts, left, strict=True):
        if after:
            values.append(_average_precision(right[rows], int(after)))
        elif before and len(rows):
            values.append(0.0)
    return float(np.mean(values)) if values else -1.0


def _average_precision(right: Bools, boxes: int) -> float:
    """Return the mean over 101 recalls of the best precision at that recall or a higher one."""
    true = np.cumsum(right)
    precision = np.maximum.accumulate((true / np.arange(1, len(right) + 1))[::-1])[::-1]
    places = np.searchsorted(true / boxes, _RECALLS)
    return float(np.append(precision, 0.0)[places].mean())


def _rows_of_classes(category: Ints, num_classes: int) -> list[Ints]:
    """Return the rows of each class, in their order."""
    order = np.argsort(category, kind="stable")
    return np.split(order, np.searchsorted(category[order], np.arange(1, num_classes)))


def errors_per_image(matching: Matching, shown: Bools) -> Ints:
    """Count the false detections of `shown` and the boxes that it misses, of each image."""
    missed = ~matching.is_found(shown) & ~matching.crowd
    wrong = matching.found.image[shown & matching.wrong]
    count = len(matching.image_ids)
    return np.bincount(wrong, minlength=count) + np.bincount(matching.truth.image[missed], minlength=count)


def sizes(boxes: Floats) -> Floats:
    """Return the square roots of the areas of (N, 4) boxes as x, y, width and height."""
    return np.sqrt(boxes[:, 2:].prod(axis=1))
