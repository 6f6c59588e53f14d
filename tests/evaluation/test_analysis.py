"""Matching, thresholds, confusions and kinds of errors, against pycocotools and against their definitions in words."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fcos_core.evaluation.analysis import (
    KINDS,
    best_thresholds,
    confusion_matrix,
    errors_by_kind,
    errors_per_image,
    shown,
)
from fcos_core.evaluation.matching import FALSE, ON_CROWD, match

# Category ids in the order of the labels, which is not ascending; image ids in no order.
CATEGORY_IDS, IMAGE_IDS = [7, 3, 5], [30, 10, 20]
# A coarse grid gives equal IoUs, IoUs of exactly 0.5 and equal boxes.
SIDES = st.integers(1, 4)
BOX = st.tuples(st.integers(0, 4), st.integers(0, 4), SIDES, SIDES)
TRUTH = st.tuples(st.sampled_from(IMAGE_IDS), st.sampled_from(CATEGORY_IDS), BOX, st.sampled_from([0, 0, 0, 1]))
FOUND = st.tuples(st.sampled_from(IMAGE_IDS), st.sampled_from(CATEGORY_IDS), BOX, st.integers(1, 9))
CASES = given(st.lists(TRUTH, max_size=9), st.lists(FOUND, max_size=14))


class Case:
    """Annotations and detections as dicts, and their matching."""

    def __init__(self, truth, found):
        self.truth = [
            {
                "id": i,
                "image_id": image,
                "category_id": category,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for i, (image, category, box, crowd) in enumerate(truth, 1)
        ]
        self.found = [
            {"image_id": image, "category_id": category, "bbox": list(box), "score": score / 10}
            for image, category, box, score in found
        ]
        columns = (
            np.array([entry["image_id"] for entry in self.found], np.int64),
            np.array([entry["category_id"] for entry in self.found], np.int64),
            np.array([entry["bbox"] for entry in self.found], np.float32).reshape(-1, 4),
            np.array([entry["score"] for entry in self.found]),
        )
        self.matching = match(self.truth, IMAGE_IDS, columns, CATEGORY_IDS)
        # The order of the matching, from its definition: boxes by image, crowds last; detections by score.
        self.truth_order = sorted(self.truth, key=lambda entry: (entry["image_id"], entry["iscrowd"]))
        self.found_order = sorted(self.found, key=lambda entry: (-entry["score"], entry["image_id"]))

    def evaluated(self):
        """Return pycocotools' evaluation at an IoU of 0.5."""
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in IMAGE_IDS],
            "categories": [{"id": i} for i in CATEGORY_IDS],
            "annotations": self.truth,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
            evaluation = COCOeval(coco, coco.loadRes(self.found), "bbox")
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.iouThrs, evaluation.params.maxDets = np.array([0.5]), [100]
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def iou(self, found, truth):
        return mask.iou([found["bbox"]], [truth["bbox"]], [truth["iscrowd"]])[0, 0]

    def right_pairs(self, threshold_of=lambda category_id: 0):
        """Match the detections of at least a threshold one by one; return (detection, box) and those on crowds."""
        pairs, on_crowd, taken = [], [], set()
        for detection in self.found_order:
            if detection["score"] < threshold_of(detection["category_id"]):
                continue
            best, best_iou = None, 0.5
            boxes = [box for box in self.truth_order if same(box, detection, "image_id", "category_id")]
            for box in boxes:
                iou = self.iou(detection, box)
                if iou >= best_iou and box["id"] not in taken and not box["iscrowd"]:
                    best, best_iou = box, iou
            if best:
                taken.add(best["id"])
                pairs.append((detection, best))
            elif any(self.iou(detection, box) >= 0.5 for box in boxes if box["iscrowd"]):
                on_crowd.append(detection)
        return pairs, on_crowd


def same(entry, other, *keys):
    return all(entry[key] == other[key] for key in keys)


@settings(max_examples=60, deadline=None)
@CASES
def test_matches_are_those_of_pycocotools(truth, found):
    case = Case(truth, found)
    if not found:
        assert not len(case.matching.match)
        return
    expected = {}
    for entry in case.evaluated().evalImgs:
        if entry:
            ids = np.where(
                entry["dtIgnore"][0], ON_CROWD, np.where(entry["dtMatches"][0] > 0, entry["dtMatches"][0], FALSE)
            )
            expected[entry["image_id"], entry["category_id"]] = list(zip(entry["dtScores"], ids.tolist(), strict=True))
    matching, actual = case.matching, {key: [] for key in expected}
    for row, score in enumerate(matching.score):
        value = int(matching.match[row])
        key = int(matching.image_ids[matching.found.image[row]]), CATEGORY_IDS[matching.found.category[row]]
        actual[key].append((score, case.truth_order[value]["id"] if value >= 0 else value))
    assert actual == expected


def test_only_the_best_hundred_detections_of_an_image_and_class_count():
    found = [(10, 7, (0, 0, 4, 4), 2)] * 130 + [(10, 3, (0, 0, 4, 4), 1), (10, 7, (1, 1, 2, 2), 9)]
    matching = Case([(10, 7, (1, 1, 2, 2), 0)], found).matching
    assert len(matching.score) == 101 and matching.match[0] == 0 and matching.score[-1] == 0.1


@settings(max_examples=40, deadline=None)
@CASES
def test_the_best_threshold_is_the_highest_of_those_with_the_best_f(truth, found):
    case = Case(truth, found)
    for category_id, best in zip(CATEGORY_IDS, best_thresholds(case.matching, 3), strict=True):
        boxes = sum(box["category_id"] == category_id and not box["iscrowd"] for box in case.truth)
        candidates = []
        for threshold in {entry["score"] for entry in case.found if entry["category_id"] == category_id}:
            pairs, on_crowd = case.right_pairs(lambda _, threshold=threshold: threshold)
            right = sum(detection["category_id"] == category_id for detection, _ in pairs)
            ignored = sum(detection["category_id"] == category_id for detection in on_crowd)
            kept = sum(
                same(e, {"category_id": category_id}, "category_id") and e["score"] >= threshold for e in case.found
            )
            if right:
                precision, recall = right / (kept - ignored), right / boxes
                f = 2 * precision * recall / (precision + recall)
                candidates.append((round(f, 12), threshold, precision, recall))
        if not candidates:
            assert best is None
            continue
        f, threshold, precision, recall = max(candidates)
        assert (best.f, best.threshold, best.precision, best.recall) == pytest.approx((f, threshold, precision, recall))


@settings(max_examples=40, deadline=None)
@CASES
def test_confusions_follow_their_definition(truth, found):
    case = Case(truth, found)
    best = best_thresholds(case.matching, 3)
    thresholds = {i: entry.threshold if entry else 0.3 for i, entry in zip(CATEGORY_IDS, best, strict=True)}
    pairs, on_crowd = case.right_pairs(thresholds.get)
    used = [id(entry) for pair in pairs for entry in pair] + [id(entry) for entry in on_crowd]
    expected = np.zeros((4, 4), int)
    for detection, _ in pairs:
        label = CATEGORY_IDS.index(detection["category_id"])
        expected[label, label] += 1
    plain = [box for box in case.truth_order if not box["iscrowd"]]
    for detection in case.found_order:
        if detection["score"] < thresholds[detection["category_id"]] or id(detection) in used:
            continue
        detected = CATEGORY_IDS.index(detection["category_id"])
        others = [box for box in plain if id(box) not in used and box["category_id"] != detection["category_id"]]
        others = [box for box in others if same(box, detection, "image_id") and case.iou(detection, box) >= 0.5]
        if others:
            box = max(others, key=lambda box: case.iou(detection, box))
            used.append(id(box))
            expected[CATEGORY_IDS.index(box["category_id"]), detected] += 1
        else:
            expected[3, detected] += 1
    for box in plain:
        expected[CATEGORY_IDS.index(box["category_id"]), 3] += id(box) not in used
    kept = shown(case.matching, best)
    assert confusion_matrix(case.matching, kept, 3).tolist() == expected.tolist()
    # Without confusions of classes, the errors of all images are those on the last row and column.
    errors = errors_per_image(case.matching, kept).sum()
    between = expected[:3, :3].sum() - np.trace(expected[:3, :3])
    assert errors == expected[3].sum() + expected[:, 3].sum() + 2 * between


def kind_of(case, detection, pairs):
    """Sort a false detection as TIDE does: the first test that holds."""
    plain = [box for box in case.truth if not box["iscrowd"] and same(box, detection, "image_id")]
    own = [case.iou(detection, box) for box in plain if same(box, detection, "category_id")]
    other = [case.iou(detection, box) for box in plain if not same(box, detection, "category_id")]
    taken = [id(box) for _, box in pairs]
    own_taken = [case.iou(detection, b) for b in plain if same(b, detection, "category_id") and id(b) in taken]
    if 0.1 <= max(own, default=0) <= 0.5:
        return "location"
    if max(other, default=0) >= 0.5:
        return "class"
    if max(own_taken, default=0) >= 0.5:
        return "duplicate"
    return "background" if max(own + other, default=0) <= 0.1 else "both"


@settings(max_examples=60, deadline=None)
@CASES
def test_kinds_of_errors_follow_tides_rules(truth, found):
    case = Case(truth, found)
    pairs, on_crowd = case.right_pairs()
    right = [id(detection) for detection, _ in pairs] + [id(detection) for detection in on_crowd]
    expected = {kind: [] for kind in KINDS}
    aims = set()
    for row, detection in enumerate(case.found_order):
        if id(detection) in right:
            continue
        kind = kind_of(case, detection, pairs)
        expected[kind].append(row)
        if kind in ("location", "class"):
            boxes = [b for b in case.truth_order if not b["iscrowd"] and same(b, detection, "image_id")]
            boxes = [b for b in boxes if same(b, detection, "category_id") == (kind == "location")]
            aims.add(max(boxes, key=lambda box: case.iou(detection, box))["id"])
    found_boxes = {box["id"] for _, box in pairs}
    lost = [
        row for row, box in enumerate(case.truth_order) if box["id"] not in found_boxes | aims and not box["iscrowd"]
    ]
    errors = errors_by_kind(case.matching, 3)
    actual = {kind: sorted(rows.tolist()) for kind, rows in errors.rows.items()}
    assert actual == {**expected, "missed": lost}
    if found:
        precision = case.evaluated().eval["precision"][0, :, :, 0, 0]
        values = precision[precision > -1]
        assert errors.ap50 == pytest.approx(values.mean() if values.size else -1)


def gains(truth, found):
    return {kind: round(gain, 4) for kind, gain in errors_by_kind(Case(truth, found).matching, 3).gains.items() if gain}


def test_gains_of_mended_errors():
    box, aside, far = (0, 0, 4, 4), (2, 0, 4, 4), (20, 20, 4, 4)
    right = (10, 7, box, 5)
    # AP50 is the mean of 101 precisions. A false detection before the right one makes all of them 1/2.
    assert gains([(10, 7, box, 0)], [right, (10, 7, far, 9)]) == {"background": 0.5}
    assert gains([(10, 7, box, 0)], [right, (10, 3, box, 9)]) == {}
    # The box at another place is not found: with its detection mended, AP50 is 1 instead of 51/101 (recalls up to 1/2).
    two = [(10, 7, box, 0), (10, 7, far, 0)]
    assert gains(two, [right, (10, 7, (22, 20, 4, 4), 4)]) == {"location": round(50 / 101, 4)}
    assert gains(two, [right]) == {"missed": round(50 / 101, 4)}
    assert gains(two, [right, (10, 7, box, 4), (10, 7, far, 3)]) == {"duplicate": round(50 / 101 * (1 - 2 / 3), 4)}
    # The class 3 has a box, which a detection of class 7 covers. Mended, class 3 has AP 1 instead of 0, and class 7
    # loses the false detection before its right one: 1 instead of 1/2.
    assert gains([(10, 7, box, 0), (20, 3, box, 0)], [right, (20, 7, box, 9)]) == {"class": 0.75}
    # Near a box of another class, but not on it: neither mends the other.
    assert gains([(10, 7, box, 0), (20, 3, box, 0), (20, 7, far, 0)], [right, (20, 7, aside, 9), (20, 3, box, 9)]) == {
        "both": round(51 / 101 / 2 / 2, 4),
        "missed": round(50 / 101 / 2 / 2, 4),
    }
    # Two errors aim at one box: TIDE mends only the better one, here that of the class.
    shared = [right, (20, 3, box, 9), (20, 7, (2, 0, 4, 4), 4)]
    assert gains([(10, 7, box, 0), (20, 7, box, 0)], shared) == {"class": round(50 / 101, 4)}
