"""Published `data.datasets.evaluation`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcos_core import evaluation
from fcos_core.data.concat import as_dataset
from fcos_core.evaluation import Results
from fcos_core.structures.bounding_box import BoxList


def evaluate(
    dataset: Any,
    predictions: Sequence[BoxList],
    output_folder: str | Path | None,
    box_only: bool = False,
    iou_types: Sequence[str] = ("bbox",),
    expected_results: Sequence[Sequence[Any]] = (),
    expected_results_sigma_tol: float = 4,
) -> Results | None:
    """Compute the metrics of one BoxList for each image of `dataset`, in the order of its indices.

    See `fcos_core.evaluation.evaluate` and `check_expected_results`; `box_only` and `iou_types` are not read, as there
    are only boxes. The result can be taken as a pair: `results, detections = evaluate(...)`.
    """
    results = evaluation.evaluate(
        as_dataset(dataset),  # type: ignore[arg-type]  # has all that is read
        dict(enumerate(predictions)),
        output_folder,
    )
    if results is not None:
        evaluation.check_expected_results(results, expected_results, expected_results_sigma_tol)
    return results
