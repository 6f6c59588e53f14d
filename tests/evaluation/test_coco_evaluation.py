"""COCO metrics of detections whose metrics are known by construction."""

import json

import pytest
import torch
from PIL import Image

from fcos_core.data.coco import COCODataset
from fcos_core.errors import InputError
from fcos_core.evaluation import check_expected_results, coco_results, evaluate
from fcos_core.evaluation.coco import METRICS
from fcos_core.evaluation.draw import draw_detections
from fcos_core.structures.bounding_box import BoxList

# Two images of 100 x 50; category ids 7 and 3, so that labels 1 and 2 are ids 3 and 7.
BOXES = {1: [([10, 10, 20, 20], 7), ([50, 5, 40, 40], 3)], 2: [([0, 0, 30, 30], 3)]}


@pytest.fixture
def dataset(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 50} for i in BOXES]
    for image in images:
        Image.new("RGB", (100, 50)).save(tmp_path / image["file_name"])
    annotations = [
        {"image_id": i, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, boxes in BOXES.items()
        for box, category in boxes
    ]
    annotations = [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)]
    tree = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(tree))
    return COCODataset(str(tmp_path), str(tmp_path / "a.json"))


def perfect(dataset, scale=2):
    """The ground truth as detections on images enlarged `scale` times."""
    label_of = {category: label for label, category in dataset.contiguous_to_category_id.items()}
    predictions = {}
    for index in range(len(dataset)):
        entries = BOXES[dataset.image_id(index)]
        boxes = BoxList([box for box, _ in entries], (100, 50), "xywh").convert("xyxy")
        boxes = boxes.resize((100 * scale, 50 * scale))
        boxes.add_field("scores", torch.full((len(entries),), 0.9))
        boxes.add_field("labels", torch.tensor([label_of[category] for _, category in entries]))
        predictions[index] = boxes
    return predictions


def test_perfect_detections_score_one(dataset, tmp_path):
    results = evaluate(dataset, perfect(dataset), tmp_path / "out")
    assert list(results["bbox"]) == list(METRICS)
    assert results["bbox"]["AP"] == results["bbox"]["AP50"] == pytest.approx(1)
    assert results["AP per class"] == pytest.approx({"cat": 1, "dog": 1})
    assert json.loads((tmp_path / "out" / "coco_results.json").read_text()) == results


def test_one_class_missed_halves_the_mean(dataset):
    predictions = {index: boxes[boxes.get_field("labels") == 1] for index, boxes in perfect(dataset).items()}
    results = evaluate(dataset, predictions)
    assert results["AP per class"] == pytest.approx({"cat": 1, "dog": 0})
    assert results["bbox"]["AP"] == pytest.approx(0.5)


def test_results_are_in_pixels_of_the_file_and_ids_of_the_file(dataset):
    entries = coco_results(dataset, perfect(dataset, scale=3))
    assert [(e["image_id"], e["category_id"]) for e in entries] == [(1, 7), (1, 3), (2, 3)]
    # Converting takes a pixel off the width before scaling up and adds it after scaling down: exact both ways.
    assert entries[0]["bbox"] == pytest.approx([10, 10, 20, 20], abs=1e-4)


def test_nothing_found_gives_zeros(dataset, tmp_path):
    empty = BoxList([], (100, 50))
    empty.add_field("scores", torch.zeros(0))
    empty.add_field("labels", torch.zeros(0, dtype=torch.int64))
    results = evaluate(dataset, {0: empty, 1: empty}, tmp_path)
    assert results["bbox"]["AP"] == 0 and results["bbox"]["AR100"] == 0
    assert results["AP per class"] == {"cat": 0, "dog": 0}
    assert json.loads((tmp_path / "bbox.json").read_text()) == []


def test_expected_results():
    results = {"bbox": {"AP": 0.5}}
    check_expected_results(results, [["bbox", "AP", 0.52, 0.01]], sigma_tol=4)
    with pytest.raises(InputError, match=r"bbox AP is 0.5000, expected between 0.5100 and 0.5300"):
        check_expected_results(results, [["bbox", "AP", 0.52, 0.01]], sigma_tol=1)
    with pytest.raises(InputError, match="is not one"):
        check_expected_results(results, [["bbox", "AP", 0.52]], sigma_tol=1)
    with pytest.raises(InputError, match="is not one"):
        check_expected_results(results, [["bbox", "mAP", 0.52, 0.01]], sigma_tol=1)
    with pytest.raises(InputError, match="is not one"):
        check_expected_results(results, [["bbox", "AP", "half", 0.01]], sigma_tol=1)


def test_drawing_marks_boxes_above_the_threshold(tmp_path):
    boxes = BoxList([[10, 10, 30, 30], [60, 10, 80, 30]], (100, 50))
    boxes.add_field("scores", torch.tensor([0.9, 0.1]))
    boxes.add_field("labels", torch.tensor([1, 2]))
    draw_detections(Image.new("RGB", (100, 50)), boxes, ["cat", "dog"], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        # 50 pixels high and so enlarged seven times, to 350; the left border of each box is looked at.
        assert picture.size == (700, 350)
        assert picture.getpixel((70, 180)) == (0xE6, 0x19, 0x4B)
        assert picture.getpixel((420, 180)) == (0, 0, 0)
