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
from fcos_core.evaluation.analysis import best_thresholds
from fcos_core.evaluation.matching import COCO_LIMIT, match
from fcos_core.evaluation.predictions import Predictions
from fcos_core.evaluation.report import REPORT, THRESHOLDS, write_report, write_thresholds
from fcos_core.evaluation.results import Metrics, Results
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.text import Block, printable

# File beside bbox.json.
LABEL_NAMES = "label_names.json"
# Why a metric is -1, after its name.
_NO_BOX = ": the annotation file has no box of it, crowds aside"
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
    detections_per_img: int | None = None,
    report: bool = False,
) -> Results | None:
    """Compute the COCO metrics of detections and log them as a table.

    Args:
        dataset: with or without annotations.
        predictions: dataset index to detections in pixels of any resized image, as the detector gives them.
        output_folder: gets bbox.json (detections in COCO's result format), coco_results.json and thresholds.json (class
            name to the score of the best F-measure, see `best_thresholds`); and label_names.json, if the dataset lists
            no categories: a list of the names of the labels, which are the detections' categories.
        evaluator: one of EVALUATORS.
        detections_per_img: most detections that the detector gives for an image; None: the most in `predictions`.
            COCO's metrics count 100; of a larger number N the metrics "AP@N" and "ARN" count N.
        report: write report.html into the folder too.

    Returns:
        {"bbox": {metric of METRICS: value in 0..1, or -1 if the file has no box for it}, "AP per class": {class name:
        AP}}, which published scripts can take apart as a pair, see `Results`; None if the dataset has no annotations.

    Raises:
        InputError: see `check_evaluator`.
    """
    check_evaluator(evaluator)
    detections = _Detections(dataset, predictions)
    if output_folder:
        detections.write(Path(output_folder) / "bbox.json")
        if not dataset.contiguous_to_category_id:  # what the labels mean, only the detector knew; [] if it did not
            (Path(output_folder) / LABEL_NAMES).write_text(json.dumps(dataset.category_names), encoding="utf-8")
    if not dataset.has_annotations:
        logger.info("The dataset has no annotations: detections were written, metrics cannot be computed.")
        return None
    limit = max(detections_per_img or detections.most_per_image(), COCO_LIMIT)
    metrics, precision = _metrics(dataset, detections, evaluator, limit)
    results = Results(metrics, detections.as_dicts)
    if output_folder:
        folder = Path(output_folder)
        (folder / "coco_results.json").write_text(json.dumps(results), encoding="utf-8")
        _analyse(dataset, detections, metrics, precision, folder, report)
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
        packed = Predictions.pack({index: self._scaled(dataset, index, boxes) for index, boxes in predictions.items()})
        sizes = torch.from_numpy(dataset.image_sizes[packed.indices.numpy()]).double()
        # Compute as BoxList.resize and BoxList.convert do, but for all images at once.
        ratios = (sizes / packed.sizes).to(packed.boxes.dtype).repeat(1, 2)
        first, second = (packed.boxes * ratios.repeat_interleave(packed.counts, dim=0)).split(2, dim=1)
        self.boxes = torch.cat([first, second - first + 1], dim=1).numpy()
        image_ids = torch.tensor([dataset.image_id(index) for index in packed.indices.tolist()], dtype=torch.int64)
        self.image_ids = image_ids.repeat_interleave(packed.counts).numpy()
        self.scores = packed.scores.numpy()
        id_of = dataset.contiguous_to_category_id
        labels, inverse = packed.labels.unique(return_inverse=True)
        # A file without annotations may also lack categories; then a label is its own category id.
        known = torch.tensor([not id_of or label in id_of for label in labels.tolist()], dtype=torch.bool)
        ids = [id_of.get(label, label) for label in labels.tolist()]
        self.category_ids = torch.tensor(ids, dtype=torch.int64)[inverse].numpy()
        if not known.all():
            self._leave_out(~known[inverse].numpy())

    @staticmethod
    def _scaled(dataset: COCODataset, index: int, boxes: BoxList) -> BoxList:
        """Scale continuous boxes to the image file; `Predictions` are inclusive, in pixels of the size they have."""
        if not boxes.continuous:
            return boxes
        width, height = dataset.image_sizes[index].tolist()
        return boxes.resize((width, height))

    def _leave_out(self, rows: np.ndarray) -> None:
        """Leave out detections of classes that the dataset does not list: no annotation could confirm them."""
        logger.info("%d detections are of classes that the dataset does not list: left out.", rows.sum())
        for name in ("image_ids", "category_ids", "boxes", "scores"):
            setattr(self, name, getattr(self, name)[~rows])

    def as_dicts(self, part: slice = slice(None)) -> list[Detection]:
        columns = (self.image_ids, self.category_ids, self.boxes, self.scores)
        rows = zip(*(column[part].tolist() for column in columns), strict=True)
        return [{"image_id": i, "category_id": c, "bbox": box, "score": s} for i, c, box, s in rows]

    def most_per_image(self) -> int:
        return int(np.unique(self.image_ids, return_counts=True)[1].max(initial=0))

    def num_beyond(self, limit: int) -> int:
        """Return how many detections are not among the best `limit` of their image and class."""
        pairs = np.stack([self.image_ids, self.category_ids])
        counts = np.unique(pairs, axis=1, return_counts=True)[1]
        return int(np.maximum(counts - limit, 0).sum())

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


def _metrics(dataset: COCODataset, detections: _Detections, evaluator: str, limit: int) -> tuple[Metrics, np.ndarray]:
    """Return the metrics, and their precision: IoUs, recalls, classes in the order of the labels."""
    # pycocotools prints. Only its summary is of use and goes to the log.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluated(dataset.coco, detections.as_dicts(), evaluator, limit)
    with contextlib.redirect_stdout(io.StringIO()) as summary:
        evaluation.summarize()
    metrics = dict(zip(METRICS, map(float, evaluation.stats), strict=True))
    lines = [summary.getvalue().rstrip(), *_beyond_limit(evaluation, metrics, detections, limit)]
    lines += _undefined_areas(dataset, evaluation)
    # Precision has axes (IoU threshold, recall, category, area, detections per image): take all areas and COCO's number
    # of detections, the third. Categories are by ascending id.
    category_ids = list(dataset.contiguous_to_category_id.values())
    precision = evaluation.eval["precision"][:, :, np.argsort(np.argsort(category_ids)), 0, 2]
    names = (dataset.category_names[label - 1] for label in dataset.contiguous_to_category_id)
    per_class = {name: _mean(precision[:, :, column]) for column, name in enumerate(names)}
    rows = "\n".join(f" {ap:6.3f}  {printable(name)}" + (_NO_BOX if ap == -1 else "") for name, ap in per_class.items())
    logger.info("COCO metrics\n%s\nAP per class\n%s", Block("\n".join(lines)), Block(rows))
    return {"bbox": metrics, "AP per class": per_class}, precision


def _analyse(
    dataset: COCODataset, detections: _Detections, metrics: Metrics, precision: np.ndarray, folder: Path, report: bool
) -> None:
    """Write thresholds.json and, with `report`, report.html; `precision` is that of the classes by their labels."""
    category_ids = list(dataset.contiguous_to_category_id.values())
    coco, found = dataset.coco, (detections.image_ids, detections.category_ids, detections.boxes, detections.scores)
    matching = match(list(coco.anns.values()), coco.getImgIds(), found, category_ids)
    best = best_thresholds(matching, len(category_ids))
    names = [dataset.category_names[label - 1] for label in dataset.contiguous_to_category_id]
    write_thresholds(folder / THRESHOLDS, names, best)
    if report:
        write_report(folder / REPORT, dataset, matching, best, metrics, precision)


def _beyond_limit(evaluation: COCOeval, metrics: dict[str, float], detections: _Detections, limit: int) -> list[str]:
    """Add AP and AR of `limit` detections an image to `metrics`, if more than COCO's; return lines that show them."""
    if limit == COCO_LIMIT:
        return []
    ap = metrics[f"AP@{limit}"] = _mean(evaluation.eval["precision"][:, :, :, 0, -1])
    ar = metrics[f"AR{limit}"] = _mean(evaluation.eval["recall"][:, :, 0, -1])
    form = " {:<18} ({}) @[ IoU=0.50:0.95 | area=   all | maxDets={:>3d} ] = {:0.3f}"
    return [
        f" COCO's metrics above count the best {COCO_LIMIT} detections of an image and class: "
        f"{detections.num_beyond(COCO_LIMIT)} of {len(detections.scores)} detections are beyond. With {limit}:",
        form.format("Average Precision", "AP", limit, ap),
        form.format("Average Recall", "AR", limit, ar),
    ]


def _undefined_areas(dataset: COCODataset, evaluation: COCOeval) -> list[str]:
    """Return a line for each range of areas whose metrics are -1, which says that the file has no box of it."""
    areas = np.array([entry["area"] for entry in dataset.coco.anns.values() if not entry.get("iscrowd")])
    lines = []
    for name, (least, most) in zip(evaluation.params.areaRngLbl, evaluation.params.areaRng, strict=True):
        if not ((areas >= least) & (areas <= most)).any():
            lines.append(f" -1 for area={name} ({least:.0f} to {most:.0f} square pixels){_NO_BOX}")
    return lines


def _evaluated(ground_truth: COCO, detections: list[Detection], evaluator: str, limit: int) -> COCOeval:
    """Compute precision and recall, for pycocotools to summarize; the last of their axes ends with `limit`."""
    if evaluator == "pycocotools":
        evaluation = COCOeval(ground_truth, _as_coco(ground_truth, detections), "bbox")
        evaluation.params.maxDets = _limits(limit)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation
    import faster_coco_eval  # imported here because the package is optional

    ground_truth = _indexed(faster_coco_eval.COCO(), ground_truth.dataset)
    fast = faster_coco_eval.COCOeval_faster(ground_truth, _as_coco(ground_truth, detections), "bbox")
    fast.params.maxDets = _limits(limit)
    fast.evaluate()
    fast.accumulate()
    evaluation = COCOeval(iouType="bbox")
    evaluation.eval = fast.eval
    return evaluation


def _limits(limit: int) -> list[int]:
    """Return the numbers of detections to compute metrics for: COCO's three, and `limit` if it is larger."""
    return [1, 10, COCO_LIMIT] + [limit] * (limit > COCO_LIMIT)


def _as_coco(ground_truth: COCO, detections: list[Detection]) -> COCO:
    if detections:
        return ground_truth.loadRes(detections)
    # loadRes fails on an empty list because it looks at the first detection.
    return _indexed(type(ground_truth)(), {**ground_truth.dataset, "annotations": []})


def _indexed(coco: COCO, dataset: dict[str, Any]) -> COCO:
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are defined, or -1; -1 marks one that is not."""
    values = values[values > -1]
    return float(np.mean(values)) if values.size else -1.0
