"""Measure the evaluators of COCO's metrics."""

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.report import Table, speedup
from benchmarks.settings import Settings
from benchmarks.synthetic import draw_detections, write_annotations
from benchmarks.timing import interleave
from fcos_core.config.checks import EVALUATORS
from fcos_core.data.coco import COCODataset
from fcos_core.evaluation import evaluate
from fcos_core.structures.bounding_box import BoxList

IMAGES, BOXES_PER_IMAGE, DETECTIONS_PER_IMAGE = 5000, 7, 100


def evaluation(settings: Settings) -> list[Table]:
    """Measure each evaluator: detections of 5,000 images to COCO metrics."""
    images = max(round(IMAGES * settings.coco_scale), 1)
    dataset, predictions = synthetic_results(images)
    calls = evaluators(dataset, predictions)
    metrics: dict[str, Mapping[str, float]] = {}

    def keep(name: str) -> None:
        metrics[name] = calls[name]()["bbox"]

    timings = interleave({name: partial(keep, name) for name in calls}, settings.device, settings.rounds, 0)
    rows = [
        {
            "evaluator": name,
            "s": timing.median,
            "25%": timing.lower,
            "75%": timing.upper,
            "x pycocotools": speedup(timings, name, ["pycocotools"]),
            "AP": metrics[name]["AP"],
            "largest difference": max(abs(metrics[name][key] - value) for key, value in metrics["pycocotools"].items()),
        }
        for name, timing in timings.items()
    ]
    note = (
        f"{images:,} images x {DETECTIONS_PER_IMAGE} detections, {BOXES_PER_IMAGE} boxes an image, 80 classes. "
        "`largest difference`: over the twelve metrics, from the value of pycocotools."
    )
    return [Table("COCO evaluation", note, rows)]


def evaluators(dataset: COCODataset, predictions: Mapping[int, BoxList]) -> dict[str, Callable[[], Mapping]]:
    """Return calls that compute the metrics, by value of TEST.EVALUATOR, for the evaluators that are installed."""
    installed = [name for name in EVALUATORS if importlib.util.find_spec(name)]
    return {name: partial(evaluate, dataset, predictions, evaluator=name) for name in installed}


def synthetic_results(images: int) -> tuple[COCODataset, dict[int, BoxList]]:
    """Make a dataset without image files, and detections like those of a fair detector, by dataset index."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances.json"
        write_annotations(file, images, images * BOXES_PER_IMAGE)
        dataset = COCODataset(folder, str(file), check_files=False)
    truth = [dataset.ground_truth(index) for index in range(images)]
    return dataset, dict(enumerate(draw_detections(truth, DETECTIONS_PER_IMAGE)))
