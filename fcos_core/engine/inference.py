"""The inference loop."""

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from fcos_core.data.loader import BatchLoader
from fcos_core.data.worker_failures import explain_dead_workers
from fcos_core.engine.prefetch import prefetch
from fcos_core.evaluation import Predictions, check_expected_results, evaluate
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils import comm

logger = logging.getLogger(__name__)


def inference(
    model: nn.Module,
    data_loader: BatchLoader,
    dataset_name: str,
    iou_types: Iterable[str] = ("bbox",),
    box_only: bool = False,
    device: torch.device | str = "cuda",
    expected_results: Sequence[Sequence[Any]] = (),
    expected_results_sigma_tol: float = 4,
    output_folder: str | Path | None = None,
    evaluator: str = "pycocotools",
) -> dict[str, Any] | None:
    """Run the detector over a dataset and evaluate it on the main process.

    Args:
        model: images to a list of BoxList.
        data_loader: gives (ImageList, targets, dataset indices); one of `make_data_loader`'s.
        dataset_name: for the log.
        iou_types, box_only: accepted from published scripts; boxes are all there is.
        device: where the model is.
        expected_results, expected_results_sigma_tol: see `fcos_core.evaluation.check_expected_results`.
        output_folder: gets bbox.json and coco_results.json.
        evaluator: see `fcos_core.evaluation.evaluate`.

    Returns:
        Metrics as `fcos_core.evaluation.evaluate` gives them; None on other processes and without annotations.

    Raises:
        InputError: the metrics are not the expected ones.
    """
    dataset = data_loader.dataset
    logger.info("Start evaluation on %s (%d images)", dataset_name, len(dataset))
    start = time.perf_counter()
    predictions = Predictions.pack(compute_predictions(model, data_loader, device))
    comm.synchronize()
    seconds = time.perf_counter() - start
    logger.info(
        "Total inference time: %.1f s (%.4f s / image, %d processes)",
        seconds,
        seconds / max(len(dataset), 1),
        comm.get_world_size(),
    )
    predictions = gather_predictions(predictions)
    if predictions is None:
        return None
    results = evaluate(dataset, predictions, output_folder, evaluator)
    if results is not None:
        check_expected_results(results, expected_results, expected_results_sigma_tol)
    return results


@torch.no_grad()
def compute_predictions(model: nn.Module, data_loader: BatchLoader, device: torch.device | str) -> dict[int, BoxList]:
    """Detections, on the CPU, of this process's share of the dataset, by dataset index."""
    model.eval()
    predictions = {}
    progress = tqdm(total=len(data_loader.dataset), unit="image", disable=not comm.is_main_process())
    with explain_dead_workers(), progress:
        for images, _, indices in prefetch(data_loader, device):
            detections = model(images.to(device))
            predictions.update(zip(indices, (d.to("cpu") for d in detections), strict=True))
            progress.update(min(len(indices) * comm.get_world_size(), progress.total - progress.n))
    return predictions


def gather_predictions(predictions: Predictions) -> Predictions | None:
    """Those of all processes on rank 0, None elsewhere; through the CPU's memory, in order of rank."""
    tensors = [comm.gather_tensors(tensor) for tensor in predictions.tensors()]
    return Predictions(*tensors) if comm.is_main_process() else None
