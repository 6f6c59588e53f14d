"""Run a detector over a dataset and evaluate its detections."""

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcos_core.data.concat import as_dataset
from fcos_core.data.loader import BatchLoader
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.data.worker_failures import explain_dead_workers
from fcos_core.engine.classes import label_test_data
from fcos_core.engine.prefetch import prefetch
from fcos_core.evaluation import Predictions, Results, check_expected_results, evaluate
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList
from fcos_core.utils import comm
from fcos_core.utils.files import explaining_failure
from fcos_core.utils.progress import progress
from fcos_core.weights.checkpointer import unwrapped
from fcos_core.weights.untrained import check_trained

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
    detections_per_img: int | None = None,
    report: bool = False,
) -> Results | None:
    """Run the detector over a dataset and evaluate the detections on the main process.

    Args:
        model: maps images to a list of BoxList.
        data_loader: made by `make_data_loader`; or any other of batches (images, boxes, indices) whose `dataset` has
            the published interface, see `OwnDataset`.
        dataset_name: name in the log.
        iou_types, box_only: not read, as there are only boxes; published scripts pass them.
        device: the model's device.
        expected_results, expected_results_sigma_tol: for `check_expected_results`, which raises InputError if the
            metrics differ.
        output_folder, evaluator, detections_per_img, report: for `evaluate`; the folder also gets predictions.pth, a
            list with a BoxList for each image, in its pixels.

    Returns:
        Metrics as `evaluate` gives them; None on other processes, and without annotations.

    Raises:
        InputError: before any image is detected on: the dataset lacks something, the detector's weights are random, or
            its classes are not the dataset's categories; afterwards: see expected_results.
    """
    dataset = as_dataset(data_loader.dataset)
    check_trained(unwrapped(model))
    label_test_data(model, dataset)
    if isinstance(dataset, OwnDataset) and comm.is_main_process():
        dataset.coco  # noqa: B018  what the dataset lacks is to show before the pass
    logger.info("Start evaluation on %s (%d images)", dataset_name, len(dataset))
    start = time.perf_counter()
    predictions = Predictions.pack(compute_predictions(model, data_loader, device))
    comm.synchronize()
    seconds = time.perf_counter() - start
    per_image, processes = seconds / max(len(dataset), 1), comm.get_world_size()
    logger.info("Total inference time: %.1f s (%.4f s / image, %d processes)", seconds, per_image, processes)
    predictions = gather_predictions(predictions)
    if predictions is None:
        return None
    with explaining_failure(output_folder or ""):
        if output_folder:
            Path(output_folder).mkdir(parents=True, exist_ok=True)
            # Given a path, torch.save would raise a RuntimeError for a full disk.
            with open(Path(output_folder) / "predictions.pth", "wb") as file:
                torch.save(predictions.as_list(dataset.image_sizes.tolist()), file)
        results = evaluate(dataset, predictions, output_folder, evaluator, detections_per_img, report)
    if results is not None:
        check_expected_results(results, expected_results, expected_results_sigma_tol)
    return results


@torch.no_grad()
def compute_predictions(model: nn.Module, data_loader: BatchLoader, device: torch.device | str) -> dict[int, BoxList]:
    """Detect objects in this process's share of the dataset; return detections on the CPU by dataset index."""
    model.eval()
    predictions: dict[int, BoxList] = {}
    image_sizes = as_dataset(data_loader.dataset).image_sizes
    batches = progress(
        prefetch(data_loader, device),
        len(data_loader.dataset),
        "Detecting",
        size=lambda batch: len(batch[2]) * comm.get_world_size(),
        shown=comm.is_main_process(),
    )
    with explain_dead_workers():
        for images, _, indices in batches:
            sizes = image_sizes[list(indices)].tolist()
            predictions.update(zip(indices, detect(model, images, sizes, device), strict=True))
    return predictions


@torch.no_grad()
def detect(
    model: nn.Module, images: ImageList | ByteImages, sizes: Sequence[Sequence[int]], device: torch.device | str
) -> list[BoxList]:
    """Detect objects in N resized images and return boxes in pixels before resizing, on the CPU.

    Args:
        model: images to a list of BoxList, in evaluation mode.
        images: the resized images.
        sizes: N times (width, height) in pixels before resizing.
        device: the model's device.
    """
    pairs = zip(model(images.to(device)), sizes, strict=True)
    return [boxes.to("cpu").resize((width, height)) for boxes, (width, height) in pairs]


def gather_predictions(predictions: Predictions) -> Predictions | None:
    """Gather the predictions of all processes on rank 0, in order of rank; return None on other ranks."""
    tensors = [comm.gather_tensors(tensor) for tensor in predictions.tensors()]
    return Predictions(*tensors) if comm.is_main_process() else None
