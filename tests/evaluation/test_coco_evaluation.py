"""Test COCO metrics on detections whose metrics are known by construction."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_core.data.coco import COCODataset
from fcos_core.data.datasets.evaluation import evaluate as published_evaluate
from fcos_core.errors import InputError
from fcos_core.evaluation import METRICS, check_evaluator, check_expected_results, coco_results, evaluate
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


def perfect(dataset, scale=2, continuous=False):
    """Return the ground truth as detections on images enlarged `scale` times."""
    label_of = {category: label for label, category in dataset.contiguous_to_category_id.items()}
    predictions = {}
    for index in range(len(dataset)):
        entries = BOXES[dataset.image_id(index)]
        boxes = BoxList([box for box, _ in entries], (100, 50), "xywh", continuous).convert("xyxy")
        boxes = boxes.resize((100 * scale, 50 * scale))
        boxes.add_field("scores", torch.full((len(entries),), 0.9))
        boxes.add_field("labels", torch.tensor([label_of[category] for _, category in entries]))
        predictions[index] = boxes
    return predictions


# requirements.txt installs faster_coco_eval.
@pytest.mark.parametrize("evaluator", ["pycocotools", "faster_coco_eval"])
def test_perfect_detections_score_one(dataset, tmp_path, evaluator):
    results = evaluate(dataset, perfect(dataset), tmp_path / "out", evaluator)
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
    # The conversion subtracts a pixel from the width before scaling up and adds it after scaling down, so it is exact.
    assert entries[0]["bbox"] == pytest.approx([10, 10, 20, 20], abs=1e-4)


@pytest.mark.parametrize("scale", [1, 3, 0.5])
def test_results_of_continuous_boxes_are_as_wide_as_their_coordinates_say(dataset, scale):
    detections = perfect(dataset, scale, continuous=True)
    assert detections[0].bbox[0].tolist() == [10 * scale, 10 * scale, 30 * scale, 30 * scale]
    assert coco_results(dataset, detections)[0]["bbox"] == pytest.approx([10, 10, 20, 20], abs=1e-4)


def test_results_are_those_of_each_box_list_for_itself(dataset):
    rng = torch.Generator().manual_seed(0)
    predictions = {}
    for index, count in ((1, 7), (0, 4)):
        corner = torch.rand(count, 2, generator=rng) * 200
        boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=rng) * 100], dim=1)
        predictions[index] = BoxList(boxes, (333, 167))
        predictions[index].add_field("scores", torch.rand(count, generator=rng))
        predictions[index].add_field("labels", torch.randint(1, 3, (count,), generator=rng))
    expected = []
    for index in (0, 1):
        boxes = predictions[index].resize((100, 50)).convert("xywh").bbox.tolist()
        scores, labels = (predictions[index].get_field(name).tolist() for name in ("scores", "labels"))
        for box, score, label in zip(boxes, scores, labels, strict=True):
            ids = {"image_id": index + 1, "category_id": {1: 3, 2: 7}[label]}
            expected.append({**ids, "bbox": box, "score": score})
    assert coco_results(dataset, predictions) == expected


def test_every_detection_is_written(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("fcos_core.evaluation.coco._CHUNK", 2)
    evaluate(dataset, perfect(dataset), tmp_path)
    written = json.loads((tmp_path / "bbox.json").read_text())
    assert len(written) == 3 and written == coco_results(dataset, perfect(dataset))


@pytest.fixture
def many(tmp_path):
    """Make 40 images with boxes of 5 classes and all three size ranges, crowds, and good and bad detections."""
    rng = np.random.default_rng(0)
    images, annotations, predictions = [], [], {}
    for index in range(40):
        images.append({"id": 100 - index, "file_name": "a.png", "width": 640, "height": 480})
        corners, sides = rng.uniform(0, 300, (2, 36, 2)), np.exp(rng.uniform(1, 5.5, (36, 2)))
        labels = rng.integers(1, 6, 36)
        for box, label in zip(np.concatenate([corners[0], sides], axis=1)[:6].tolist(), labels.tolist(), strict=False):
            entry = {"bbox": box, "area": 0.7 * box[2] * box[3], "iscrowd": int(rng.random() < 0.1)}
            entry |= {"id": len(annotations) + 1, "image_id": 100 - index, "category_id": 10 * label}
            annotations.append(entry)
        # Two detections are near each of the six boxes, thirty anywhere.
        noise = 0.04 * rng.normal(size=(2, 6, 2)) * sides[:6]
        near = [np.concatenate([corners[0, :6] + part, sides[:6] + part], axis=1) for part in noise]
        found = np.concatenate([*near, np.concatenate([corners[1, 6:], sides[6:]], axis=1)])
        scores = np.concatenate([rng.uniform(0.3, 1, 12), rng.uniform(0, 0.5, 30)])
        detections = BoxList(torch.from_numpy(found).float(), (640, 480), "xywh").convert("xyxy")
        # Scores with two digits make ties. AR10 takes ten of the 42 detections.
        detections.add_field("scores", torch.from_numpy(scores.round(2)).float())
        detections.add_field("labels", torch.from_numpy(labels[[*range(6), *range(6), *range(6, 36)]]))
        predictions[39 - index] = detections
    # The last class has no annotation.
    categories = [{"id": 10 * label, "name": f"class {label}"} for label in range(1, 7)]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "many.json").write_text(json.dumps(tree))
    return COCODataset(str(tmp_path), str(tmp_path / "many.json"), check_files=False), predictions


def test_the_faster_evaluator_gives_the_same_numbers(many):
    expected = evaluate(*many)
    results = evaluate(*many, evaluator="faster_coco_eval")
    assert 0.2 < expected["bbox"]["AP"] < 0.9 and expected["AP per class"]["class 6"] == -1
    # Both packages must agree to this tolerance.
    assert results["bbox"] == pytest.approx(expected["bbox"], abs=1e-6)
    assert results["AP per class"] == pytest.approx(expected["AP per class"], abs=1e-6)


def test_an_evaluator_that_is_unknown_or_not_installed_is_named(dataset, monkeypatch):
    with pytest.raises(InputError, match=r"TEST\.EVALUATOR is '?fast'?: .*pycocotools, faster_coco_eval"):
        evaluate(dataset, perfect(dataset), evaluator="fast")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "faster" in name else find_spec(name))
    check_evaluator("pycocotools")
    with pytest.raises(InputError, match=r"not installed: run `pip install faster-coco-eval` or write pycocotools"):
        evaluate(dataset, perfect(dataset), evaluator="faster_coco_eval")


@pytest.mark.parametrize("evaluator", ["pycocotools", "faster_coco_eval"])
def test_nothing_found_gives_zeros(dataset, tmp_path, evaluator):
    empty = BoxList([], (100, 50))
    empty.add_field("scores", torch.zeros(0))
    empty.add_field("labels", torch.zeros(0, dtype=torch.int64))
    results = evaluate(dataset, {0: empty, 1: empty}, tmp_path, evaluator)
    assert results["bbox"]["AP"] == 0 and results["bbox"]["AR100"] == 0
    assert results["AP per class"] == {"cat": 0, "dog": 0}
    assert json.loads((tmp_path / "bbox.json").read_text()) == []


EVALUATORS = pytest.mark.parametrize("evaluator", ["pycocotools", "faster_coco_eval"])


@EVALUATORS
def test_detections_beyond_100_get_metrics_of_their_own(dataset, caplog, evaluator):
    """One cat in image 2 is found by detection 150 of its image and class, the two others by the first."""
    caplog.set_level("INFO")
    predictions = perfect(dataset, scale=1)
    far = BoxList(torch.tensor([[90.0, 40, 99, 49]]).repeat(149, 1), (100, 50))
    cat = predictions[1]
    both = BoxList(torch.cat([far.bbox, cat.bbox]), (100, 50))
    both.add_field("scores", torch.linspace(0.8, 0.1, 150))
    both.add_field("labels", torch.ones(150, dtype=torch.int64))
    predictions[1] = both
    results = evaluate(dataset, predictions, evaluator=evaluator, detections_per_img=200)["bbox"]
    # Of the two cats one is found within 100: recall 0.5, precision 1 up to there, at 51 of the 101 points of recall.
    assert results["AR100"] == pytest.approx((0.5 + 1) / 2) and results["AP"] == pytest.approx((51 / 101 + 1) / 2)
    # With 200 the second is found too, at a precision of 2 / 151.
    assert results["AR200"] == pytest.approx(1)
    assert results["AP@200"] == pytest.approx(((51 + 50 * 2 / 151) / 101 + 1) / 2)
    assert (
        "count the best 100 detections of an image and class: 50 of 152 detections are beyond. With 200:" in caplog.text
    )
    assert "maxDets=200 ] = 0.756" in caplog.text and "maxDets=200 ] = 1.000" in caplog.text


@EVALUATORS
def test_more_detections_leave_the_metrics_of_100_as_they_are(many, evaluator):
    expected = evaluate(*many, evaluator=evaluator)
    results = evaluate(*many, evaluator=evaluator, detections_per_img=300)
    # No image has more than 42 detections, so that 300 count the same.
    extra = {"AP@300": expected["bbox"]["AP"], "AR300": expected["bbox"]["AR100"]}
    assert results["bbox"] == {**expected["bbox"], **extra}
    assert results["AP per class"] == expected["AP per class"]
    assert list(expected["bbox"]) == list(METRICS)


def test_without_a_number_the_predictions_say_how_many_count(dataset):
    boxes = BoxList(torch.tensor([[0.0, 0, 29, 29]]).repeat(130, 1), (100, 50))
    boxes.add_field("scores", torch.linspace(0.9, 0.1, 130))
    boxes.add_field("labels", torch.ones(130, dtype=torch.int64))
    assert "AP@130" in evaluate(dataset, {1: boxes})["bbox"]
    assert "AP@130" not in evaluate(dataset, {1: boxes[:100]})["bbox"]


@EVALUATORS
def test_minus_one_is_explained_where_it_is_printed(dataset, caplog, evaluator):
    caplog.set_level("INFO")
    tree = dataset.coco.dataset
    for entry in tree["annotations"]:
        entry["iscrowd"] = int(entry["category_id"] == 7)
    results = evaluate(dataset, perfect(dataset), evaluator=evaluator)
    assert results["AP per class"] == pytest.approx({"cat": 1, "dog": -1}) and results["bbox"]["APl"] == -1
    # The boxes of cats have 1600 and 900 square pixels, small and medium.
    why = "the annotation file has no box of it, crowds aside"
    assert f" -1.000  dog: {why}" in caplog.text
    assert f" -1 for area=large (9216 to 10000000000 square pixels): {why}" in caplog.text
    assert caplog.text.count(why) == 2


def test_a_file_without_boxes_explains_every_minus_one(tmp_path, caplog):
    caplog.set_level("INFO")
    images = [{"id": 1, "file_name": "1.png", "width": 100, "height": 50}]
    tree = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(tree))
    empty = COCODataset(str(tmp_path), str(tmp_path / "a.json"), check_files=False)
    assert set(evaluate(empty, {})["bbox"].values()) == {-1}
    for row in ("-1 for area=all", "-1 for area=small", "-1 for area=medium", "-1 for area=large", "-1.000  cat:"):
        assert row in caplog.text


def test_two_categories_of_one_name_have_a_row_each(dataset, caplog):
    caplog.set_level("INFO")
    tree = json.loads(Path(dataset.ann_file).read_text())
    tree["categories"] = [{"id": 7, "name": "pet"}, {"id": 3, "name": "pet"}]
    Path(dataset.ann_file).write_text(json.dumps(tree))
    dataset = COCODataset(dataset.img_dir, dataset.ann_file)
    predictions = {index: boxes[boxes.get_field("labels") == 1] for index, boxes in perfect(dataset).items()}
    assert evaluate(dataset, predictions)["AP per class"] == pytest.approx({"pet (id 3)": 1, "pet (id 7)": 0})
    assert "1.000  pet (id 3)\n" in caplog.text


def test_expected_results():
    results = {"bbox": {"AP": 0.5}}
    check_expected_results(results, [["bbox", "AP", 0.52, 0.01]], sigma_tol=4)
    with pytest.raises(InputError, match=r"bbox AP is 0.5000, expected between 0.5100 and 0.5300"):
        check_expected_results(results, [["bbox", "AP", 0.52, 0.01]], sigma_tol=1)
    with pytest.raises(InputError, match=r"takes entries such as \[.*\], not \['bbox'"):
        check_expected_results(results, [["bbox", "AP", 0.52]], sigma_tol=1)
    with pytest.raises(InputError, match=r"takes entries such as \[.*\], not \['bbox'"):
        check_expected_results(results, [["bbox", "mAP", 0.52, 0.01]], sigma_tol=1)
    with pytest.raises(InputError, match=r"takes entries such as \[.*\], not \['bbox'"):
        check_expected_results(results, [["bbox", "AP", "half", 0.01]], sigma_tol=1)


def test_expected_results_of_the_published_form():
    results = {"bbox": {"AP": 0.377}}
    check_expected_results(results, [["bbox", "AP", (0.38, 0.001)]], 4)
    with pytest.raises(InputError, match=r"expected between 0\.3760 and 0\.3840"):
        check_expected_results({"bbox": {"AP": 0.3}}, [["bbox", "AP", [0.38, 0.001]]], 4)
    for entry in (["bbox", "AP"], ["bbox", "AP", 0.38], ["bbox", "AP", (0.38,)], ["bbox", "AP", 0.38, 0.1, 4]):
        with pytest.raises(InputError, match="EXPECTED_RESULTS takes"):
            check_expected_results(results, [entry], 4)


def test_results_can_be_taken_apart_as_published(dataset):
    found = perfect(dataset)
    result = evaluate(dataset, found)
    results, detections = result
    assert results.results["bbox"]["AP"] == result["bbox"]["AP"] == result[0]["bbox"]["AP"] == pytest.approx(1)
    assert detections == result[1] == {"bbox": coco_results(dataset, found)}
    # For everything else it is a dict.
    assert list(result.keys()) == ["bbox", "AP per class"] and json.loads(json.dumps(result)) == dict(result)
    assert {**result}.keys() == result.keys() and "bbox" in result and len(result) == 2


def test_a_list_of_detections_is_evaluated_as_published(dataset, tmp_path):
    found = perfect(dataset)
    args = {"dataset": dataset, "output_folder": str(tmp_path), "box_only": False, "iou_types": ("bbox",)}
    results, _ = published_evaluate(
        predictions=list(found.values()), **args, expected_results=[("bbox", "AP", (1, 0.1))]
    )
    assert results == evaluate(dataset, found) and (tmp_path / "bbox.json").exists()
    with pytest.raises(InputError, match="expected between"):
        published_evaluate(predictions=list(found.values()), **args, expected_results=[("bbox", "AP", (0.5, 0.1))])
