"""Detections in COCO's result format, and COCO's metrics of them."""

import contextlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from fcos_core.data.coco import COCODataset

# In the order of COCOeval.stats.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

logger = logging.getLogger(__name__)


def evaluate(
    dataset: "COCODataset", predictions: Mapping[int, BoxList], output_folder: str | Path | None = None
) -> dict[str, Any] | None:
    """COCO metrics of detections, logged as a table.

    Args:
        dataset: with or without annotations.
        predictions: dataset index to detections in pixels of any resized image, as the detector gives them.
        output_folder: gets bbox.json (detections in COCO's result format) and coco_results.json.

    Returns:
        {"bbox": {metric of METRICS: value in 0..1, -1 where undefined}, "AP per class": {class name: AP}}; None
        when the dataset has no annotations.
    """
    detections = coco_results(dataset, predictions)
    if output_folder:
        _write_json(Path(output_folder) / "bbox.json", detections)
    if not dataset.has_annotations:
        logger.info("The dataset has no annotations: detections were written, metrics cannot be computed.")
        return None
    results = _metrics(dataset, detections)
    if output_folder:
        _write_json(Path(output_folder) / "coco_results.json", results)
    return results


def coco_results(dataset: "COCODataset", predictions: Mapping[int, BoxList]) -> list[dict[str, Any]]:
    """Detections as COCO's result format has them: boxes (x, y, width, height) in pixels of the image file."""
    results = []
    for index, prediction in sorted(predictions.items()):
        info = dataset.image_info(index)
        boxes = prediction.resize((info["width"], info["height"])).convert("xywh").bbox.tolist()
        scores, labels = prediction.get_field("scores").tolist(), prediction.get_field("labels").tolist()
        results += [
            {
                "image_id": dataset.image_id(index),
                # A file of images alone need not name categories; labels then stand for themselves.
                "category_id": dataset.contiguous_to_category_id.get(label, label),
                "bbox": box,
                "score": score,
            }
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]
    return results


def check_expected_results(
    results: Mapping[str, Any], expected_results: Sequence[Sequence[Any]], sigma_tol: float
) -> None:
    """Compare metrics with what they should be.

    Args:
        results: as `evaluate` returns them.
        expected_results: ("bbox", metric, mean, deviation) each.
        sigma_tol: deviations that a metric may be off its mean.

    Raises:
        InputError: a metric is further off or is unknown, or an entry is not of that form.
    """
    for entry in expected_results:
        try:
            task, metric, mean, deviation = entry
            actual = results[task][metric]
            low, high = mean - sigma_tol * deviation, mean + sigma_tol * deviation
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'TEST.EXPECTED_RESULTS takes entries such as ["bbox", "AP", 0.377, 0.002]; {entry!r} is not one.'
            ) from error
        if not low <= actual <= high:
            raise InputError(f"{task} {metric} is {actual:.4f}, expected between {low:.4f} and {high:.4f}.")
        logger.info("%s %s is %.4f, as expected (%.4f to %.4f).", task, metric, actual, low, high)


def _metrics(dataset: "COCODataset", detections: list[dict[str, Any]]) -> dict[str, Any]:
    # pycocotools prints; its summary goes to the log, the rest nowhere.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(dataset.coco, _as_coco(dataset.coco, detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as summary:
        evaluation.summarize()
    per_class = _ap_per_class(evaluation, dataset.category_names)
    rows = "\n".join(f" {ap:6.3f}  {name}" for name, ap in per_class.items())
    logger.info("COCO metrics\n%s\nAP per class\n%s", summary.getvalue().rstrip(), rows)
    metrics = dict(zip(METRICS, map(float, evaluation.stats), strict=True))
    return {"bbox": metrics, "AP per class": per_class}


def _as_coco(ground_truth: COCO, detections: list[dict[str, Any]]) -> COCO:
    if detections:
        return ground_truth.loadRes(detections)
    # loadRes looks at the first detection, so none at all needs an index of its own.
    nothing = COCO()
    nothing.dataset = {**ground_truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def _ap_per_class(evaluation: COCOeval, names: Sequence[str]) -> dict[str, float]:
    # precision: (IoU thresholds, recalls, classes, areas, detections an image); all areas, most detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    averages = {}
    for index, name in enumerate(names):
        values = precision[:, :, index]
        values = values[values > -1]
        averages[name] = float(np.mean(values)) if values.size else -1.0
    return averages


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
