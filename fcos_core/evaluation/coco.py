"""Write detections in COCO's result format and compute COCO's metrics."""

import contextlib
import importlib.util
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fcos_core.config.checks import EVALUATORS, METRICS
from fcos_core.data.coco import COCODataset
from fcos_core.errors import InputError, require
from fcos_core.evaluation.predictions import Predictions
from fcos_core.evaluation.results import Metrics, Results
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.text import Block, printable

# Number of detections that are turned into JSON at a time.
_CHUNK = 10_000

logger = logging.getLogger(__name__)


class Detection(TypedDict):
    """One detection in COCO's result format; bbox is (x, y, width, height) in pixels of the image file."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


def evaluate(
    dataset: COCODataset,
    predictions: Mapping[int, BoxList],
    output_folder: str | Path | None = None,
    evaluator: str = "pycocotools",
) -> Results | None:
    """Compute the COCO metrics of detections and log them as a table.

    Args:
        dataset: with or without annotations.
        predictions: dataset index to detections in pixels of any resized image, as the detector gives them.
        output_folder: gets bbox.json (detections in COCO's result format) and coco_results.json.
        evaluator: one of EVALUATORS.

    Returns:
        {"bbox": {metric of METRICS: value in 0..1, or -1 if undefined}, "AP per class": {class name: AP}}, which
        published scripts can take apart as a pair, see `Results`; None if the dataset has no annotations.

    Raises:
        InputError: see `check_evaluator`.
    """
    check_evaluator(evaluator)
    detections = _Detections(dataset, predictions)
    if output_folder:
        detections.write(Path(output_folder) / "bbox.json")
    if not dataset.has_annotations:
        logger.info("The dataset has no annotations: detections were written, metrics cannot be computed.")
        return None
    results = Results(_metrics(dataset, detections.as_dicts(), evaluator), detections.as_dicts)
    if output_folder:
        path = Path(output_folder) / "coco_results.json"
        path.write_text(json.dumps(results), encoding="utf-8")
    return results


def coco_results(dataset: COCODataset, predictions: Mapping[int, BoxList]) -> list[Detection]:
    """Convert detections by dataset index, in pixels of any resized image, to COCO's result format."""
    return _Detections(dataset, predictions).as_dicts()


def check_evaluator(name: str) -> None:
    """Check that `name` is one of EVALUATORS and installed.

    Raises:
        InputError: `name` is not known or not installed.
    """
    require(name in EVALUATORS, "TEST.EVALUATOR", name, f"one of {', '.join(EVALUATORS)}")
    if importlib.util.find_spec(name) is None:
        raise InputError(
            f"TEST.EVALUATOR is {name}, which is not installed: run `pip install {name.replace('_', '-')}` or write "
            "pycocotools."
        )


class _Detections:
    """Detections in the order of dataset indices, with ids of the annotation file, in pixels of the image files."""

    def __init__(self, dataset: COCODataset, predictions: Mapping[int, BoxList]) -> None:
        packed = Predictions.pack(predictions)
        sizes = torch.from_numpy(dataset.image_sizes[packed.indices.numpy()]).double()
        # Compute as BoxList.resize and BoxList.convert do, but for all images at once.
        ratios = (sizes / packed.sizes).to(packed.boxes.dtype).repeat(1, 2)
        first, second = (packed.boxes * ratios.repeat_interleave(packed.counts, dim=0)).split(2, dim=1)
        self.boxes = torch.cat([first, second - first + 1], dim=1).numpy()
        image_ids = torch.tensor([dataset.image_id(index) for index in packed.indices.tolist()], dtype=torch.int64)
        self.image_ids = image_ids.repeat_interleave(packed.counts).numpy()
        self.scores = packed.scores.numpy()
        # A file without annotations may also lack categories; then a label is its own category id.
        labels, inverse = packed.labels.unique(return_inverse=True)
        ids = [dataset.contiguous_to_category_id.get(label, label) for label in labels.tolist()]
        self.category_ids = torch.tensor(ids, dtype=torch.int64)[inverse].numpy()

    def as_dicts(self, part: slice = slice(None)) -> list[Detection]:
        columns = (self.image_ids, self.category_ids, self.boxes, self.scores)
        rows = zip(*(column[part].tolist() for column in columns), strict=True)
        return [{"image_id": i, "category_id": c, "bbox": box, "score": s} for i, c, box, s in rows]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write("[")
            for start in range(0, len(self.scores), _CHUNK):
                file.write(", " if start else "")
                file.write(json.dumps(self.as_dicts(slice(start, start + _CHUNK)))[1:-1])
            file.write("]")


def check_expected_results(results: Results, expected_results: Sequence[Sequence[Any]], sigma_tol: float) -> None:
    """Compare metrics with expected values.

    Args:
        results: result of `evaluate`.
        expected_results: entries ("bbox", metric, mean, deviation), as TEST.EXPECTED_RESULTS has them; or, as
            published, ("bbox", metric, (mean, deviation)).
        sigma_tol: number of deviations that a metric may be away from its mean.

    Raises:
        InputError: a metric is further away or unknown, or an entry has another form.
    """
    for entry in expected_results:
        try:
            task, metric, *range_ = entry
            mean, deviation = range_ if len(range_) == 2 else range_[0]
            actual = results[task][metric]
            low, high = mean - sigma_tol * deviation, mean + sigma_tol * deviation
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(
                f'TEST.EXPECTED_RESULTS takes entries such as ["bbox", "AP", 0.377, 0.002], not {entry!r}.'
            ) from error
        if not low <= actual <= high:
            raise InputError(f"{task} {metric} is {actual:.4f}, expected between {low:.4f} and {high:.4f}.")
        logger.info("%s %s is %.4f, as expected (%.4f to %.4f).", task, metric, actual, low, high)


def _metrics(dataset: COCODataset, detections: list[Detection], evaluator: str) -> Metrics:
    # pycocotools prints. Only its summary is of use and goes to the log.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluated(dataset.coco, detections, evaluator)
    with contextlib.redirect_stdout(io.StringIO()) as summary:
        evaluation.summarize()
    per_class = _ap_per_class(evaluation, dataset.category_names)
    rows = "\n".join(f" {ap:6.3f}  {printable(name)}" for name, ap in per_class.items())
    logger.info("COCO metrics\n%s\nAP per class\n%s", Block(summary.getvalue().rstrip()), Block(rows))
    metrics = dict(zip(METRICS, map(float, evaluation.stats), strict=True))
    return {"bbox": metrics, "AP per class": per_class}


def _evaluated(ground_truth: COCO, detections: list[Detection], evaluator: str) -> COCOeval:
    """Compute precision and recall, for pycocotools to summarize."""
    if evaluator == "pycocotools":
        evaluation = COCOeval(ground_truth, _as_coco(ground_truth, detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation
    import faster_coco_eval  # imported here because the package is optional

    ground_truth = _indexed(faster_coco_eval.COCO(), ground_truth.dataset)
    fast = faster_coco_eval.COCOeval_faster(ground_truth, _as_coco(ground_truth, detections), "bbox")
    fast.evaluate()
    fast.accumulate()
    evaluation = COCOeval(iouType="bbox")
    evaluation.eval = fast.eval
    return evaluation


def _as_coco(ground_truth: COCO, detections: list[Detection]) -> COCO:
    if detections:
        return ground_truth.loadRes(detections)
    # loadRes fails on an empty list because it looks at the first detection.
    return _indexed(type(ground_truth)(), {**ground_truth.dataset, "annotations": []})


def _indexed(coco: COCO, dataset: dict[str, Any]) -> COCO:
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _ap_per_class(evaluation: COCOeval, names: Sequence[str]) -> dict[str, float]:
    # precision has axes (IoU threshold, recall, class, area, detections per image): take all areas and the largest
    # number of detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    averages = {}
    for index, name in enumerate(names):
        values = precision[:, :, index]
        values = values[values > -1]
        averages[name] = float(np.mean(values)) if values.size else -1.0
    return averages
