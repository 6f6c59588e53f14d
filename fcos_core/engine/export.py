"""Export a trained detector, check the file in its own runtime, and test it on a dataset."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.data.build import build_collator, build_dataset, build_planner
from fcos_core.data.category_names import category_names
from fcos_core.data.image_file import read_image
from fcos_core.data.transforms import transform
from fcos_core.deploy.export import (
    beside,
    least_side,
    make_metadata,
    make_network,
    write_onnx,
    write_openvino,
    write_torch,
)
from fcos_core.deploy.exported import (
    ExportedDetector,
    Runner,
    check_detections,
    check_head,
    compare_detections,
    open_exported,
    with_least_side,
)
from fcos_core.engine.test import load_detector, test, test_data_loaders
from fcos_core.errors import InputError
from fcos_core.modeling.detector import Detector
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages

# Images of a dataset that check an export where none are named.
_CHECKED = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        kind: "onnx", "openvino", "torch" (torch.export) or "aot" (AOTInductor).
        precision: "float32"; "bfloat16" and "int8" where `deploy.export.PRECISIONS` has them.
        raw: the outputs of the head, without post-processing.
        check: paths of images to check the file on; (): images of DATASETS.TEST.
        calibration: number of images that give the ranges of int8.
    """

    kind: str
    precision: str = "float32"
    raw: bool = False
    check: Sequence[str] = ()
    calibration: int = 100


def exportable(cfg: Config) -> Config:
    """Return a copy of the config for an export: on the CPU, without test-time augmentation and compilation."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.TEST.BBOX_AUG.ENABLED:
        logger.warning("TEST.BBOX_AUG is left out of the export, which takes one view of an image.")
    cfg.TEST.BBOX_AUG.ENABLED, cfg.TEST.COMPILE, cfg.MODEL.DEVICE = False, False, "cpu"
    cfg.freeze()
    return cfg


def export(cfg: Config, path: str | os.PathLike[str], options: ExportOptions) -> ExportedDetector | None:
    """Export the detector in MODEL.WEIGHT to `path`; it is written only after it gave PyTorch's detections.

    Images are batched alone and in pairs, at the test's size and at three quarters of it. A detection of float32 must
    have a partner within 0.05 px and 1e-4 in score; in other precisions most must have one of an IoU of a half.

    Args:
        cfg: from `exportable`.
        path: the file; OpenVINO's weights go beside it.
        options: format, precision and checks.

    Returns:
        The exported detector in its runtime; None for raw outputs.

    Raises:
        InputError: a value of the config, a package, the weights, an image or a path cannot be used; or the file does
            not compute what PyTorch does.
    """
    model = load_detector(cfg)
    batches = check_batches(cfg, _check_images(cfg, options.check))
    with beside(Path(path)) as temporary:
        run = write_checked(cfg, model, temporary, options, batches)
    return None if options.raw else as_detector(cfg, model, run, options.kind)


def write_checked(
    cfg: Config, model: Detector, path: Path, options: ExportOptions, batches: Sequence[ByteImages]
) -> Runner:
    """Write `model` to `path` and check it on `batches`; see `export`, which does both where nothing is in the way."""
    least = least_side(model, options.kind)
    few = _calibration_batches(cfg, options.calibration, least) if options.precision == "int8" else ()
    run = write(cfg, model, path, options.kind, options.precision, options.raw, few)
    if options.raw:
        worst = check_head(partial(_head, model), run, batches, least)
        logger.info("Checked in its runtime: the outputs are at most %.1e apart, relative to 1 plus their size.", worst)
    else:
        exact, found = options.precision == "float32", as_detector(cfg, model, run, options.kind)
        agreement = compare_detections(partial(_detect, model), found, batches, exact, _edge(model))
        check_detections(agreement, options.precision)
        logger.info("Checked in its runtime: %s.", agreement)
    return run


def write(
    cfg: Config,
    model: Detector,
    path: Path,
    kind: str,
    precision: str = "float32",
    raw: bool = False,
    calibration: Sequence[ByteImages] = (),
) -> Runner:
    """Write `model` to `path`, unchecked, and open it in its runtime; see `ExportOptions`.

    `calibration` are the images that give int8 its ranges.
    """
    network = make_network(cfg, model, kind, precision, raw)
    names = category_names(cfg, model.category_names or ())
    metadata = make_metadata(cfg, names, least_side(model, kind), precision, raw)
    if kind == "onnx":
        write_onnx(network, path, metadata)
    elif kind == "openvino":
        between = path.with_suffix(".onnx")
        write_onnx(network, between, metadata)
        write_openvino(between, path, metadata, calibration)
        between.unlink()
    else:
        write_torch(network, path, metadata, kind == "aot")
    return open_exported(path, kind, precision)


def as_detector(cfg: Config, model: Detector, run: Runner, kind: str) -> ExportedDetector:
    """Return the exported `model` as a detector, which `engine.test.test` takes."""
    continuous = cfg.MODEL.FCOS.PIXELS == "continuous"
    return ExportedDetector(run, least_side(model, kind), continuous, model.category_names)


def _edge(model: Detector) -> float:
    """Return the highest score of a detection of which the threshold can decide whether it is a candidate."""
    post = model.rpn.postprocess
    if post.rule.threshold_on_score:
        return post.score_threshold
    return post.rule.score(torch.tensor(post.score_threshold), torch.tensor(1.0)).item()


@torch.no_grad()
def _detect(model: nn.Module, images: ByteImages) -> list[BoxList]:
    return model(images)


@torch.no_grad()
def _head(model: Detector, images: ByteImages) -> list[Tensor]:
    outputs = model.rpn.head(model.backbone(images.normalize().tensors))
    return [tensor for level in zip(*outputs, strict=True) for tensor in level]


def check_batches(cfg: Config, images: Sequence[Image.Image]) -> list[ByteImages]:
    """Return the batches that check an export: each image alone, two together, and smaller ones."""
    smaller = cfg.clone()
    smaller.defrost()
    smaller.INPUT.MIN_SIZE_TEST = max(cfg.INPUT.MIN_SIZE_TEST * 3 // 4, 1)
    two = [images[0], images[-1]]
    return [*(make_batch(cfg, [image]) for image in images), make_batch(cfg, two), make_batch(smaller, two[:1])]


def make_batch(cfg: Config, images: Iterable[Image.Image]) -> ByteImages:
    """Resize images as a test does, and pad them to one size."""
    samples = []
    for index, image in enumerate(images):
        plan = build_planner(cfg, np.array([image.size]), is_train=False).plan(0, [0])
        samples.append((*transform(image, BoxList([], image.size), plan.samples[0]), index))
    return build_collator(cfg)(samples)[0]


def _check_images(cfg: Config, paths: Sequence[str]) -> list[Image.Image]:
    if paths:
        return [read_image(path, max_pixels=cfg.INPUT.MAX_PIXELS) for path in paths]
    if not cfg.DATASETS.TEST:
        raise InputError("An export is checked on images: name some with objects behind --check, or a DATASETS.TEST.")
    try:
        return _spread_images(cfg, cfg.DATASETS.TEST[0], _CHECKED)
    except InputError as error:
        raise InputError(f"{error} An export is checked on images: name others behind --check.") from error


def _spread_images(cfg: Config, name: str, count: int) -> list[Image.Image]:
    """Return up to `count` images from all over a dataset."""
    dataset = build_dataset(cfg, name, is_train=False)
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset)), dtype=int))
    return [dataset[int(index)][0] for index in indices]


def _calibration_batches(cfg: Config, count: int, least: int) -> list[ByteImages]:
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise InputError("int8 needs images that give its ranges: name a dataset in DATASETS.TRAIN or DATASETS.TEST.")
    images = _spread_images(cfg, names[0], count)
    logger.info("Calibrating int8 on %d images of %s.", len(images), names[0])
    return [with_least_side(make_batch(cfg, [image]), least) for image in images]


def evaluate_beside(cfg: Config, exported: ExportedDetector) -> dict[str, tuple[float, float]]:
    """Test PyTorch's detector and the exported one on DATASETS.TEST; return the AP of both by dataset, and log them."""
    loaders = test_data_loaders(cfg)
    results = [test(cfg, loaders, model, final=False) for model in (None, exported)]
    aps = {}
    for name in loaders:
        before, after = (float(result[name]["bbox"]["AP"]) for result in results)
        logger.info("AP on %s: %.4f in PyTorch, %.4f exported, %+.4f.", name, before, after, after - before)
        aps[name] = before, after
    return aps
