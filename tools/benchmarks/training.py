"""Measure training steps: images per second and peak memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import contenders, memory
from benchmarks.inference import TORCHVISION_MODEL
from benchmarks.models import load_config, make_detector, make_images, make_targets
from benchmarks.report import Table, images_per_second, speedup
from benchmarks.settings import Settings
from benchmarks.timing import interleave
from fcos_core.config import Config
from fcos_core.modeling.detector import Detector
from fcos_core.structures.bounding_box import BoxList

BOXES_PER_IMAGE = 8  # COCO has 7.3
# Small, so that random weights do not diverge over the rounds.
LEARNING_RATE = ("SOLVER.BASE_LR", 1e-7)
OURS = {
    "ours float32": ("SOLVER.PRECISION", "float32"),
    "ours bfloat16": ("SOLVER.PRECISION", "bfloat16"),
}
OURS_COMPILED = {"ours bfloat16 compiled": ("SOLVER.PRECISION", "bfloat16", "SOLVER.COMPILE", True)}


def training(settings: Settings) -> list[Table]:
    """Measure training steps: images per second and peak memory."""
    rows = []
    for model in settings.models:
        torch.compiler.reset()  # torch.compile recompiles a module's code a limited number of times per process
        makers = _makers(settings, model)
        plain = contenders.plain_names(settings.device)
        peaks = {name: memory.measure_memory(make, settings.device).peak for name, make in makers.items()}
        steps = {name: make() for name, make in makers.items()}
        timings = interleave(steps, settings.device, settings.rounds, settings.warmup)
        least = min(peaks[name] for name in plain)
        for name, timing in timings.items():
            rows.append(
                {
                    "model": model,
                    "contender": name,
                    **images_per_second(timing, settings.train_batch),
                    "x plain": speedup(timings, name, plain),
                    f"peak {memory.label(settings.device)}": peaks[name] / 1e9,
                    "memory / plain": peaks[name] / least,
                }
            )
    note = (
        f"{settings.train_batch} images of {settings.height}x{settings.width} with {BOXES_PER_IMAGE} boxes each: "
        "forward, backward, SGD. Peak memory of one step, with weights, gradients and momentum."
    )
    return [Table("Training step", note, rows)]


def training_subject(settings: Settings, model: str) -> tuple[Config, Detector, Tensor, list[BoxList]]:
    """Make a config, its detector, images (N, 3, H, W) in 0..1 and boxes per image."""
    config = load_config(model, settings.device, *LEARNING_RATE)
    images = make_images(settings.train_batch, settings.height, settings.width, settings.device)
    detector = make_detector(config, images, settings.candidates)
    size = (settings.height, settings.width)
    num_classes = config.MODEL.FCOS.NUM_CLASSES
    targets = make_targets(settings.train_batch, BOXES_PER_IMAGE, *size, num_classes, settings.device)
    return config, detector, images, targets


def _makers(settings: Settings, model: str) -> dict[str, Callable[[], contenders.Call]]:
    """Return functions that build the step of each contender, by name."""
    config, detector, images, targets = training_subject(settings, model)
    # On a CPU, compiling HRNet's backward pass takes longer than all measurements together.
    options = OURS | OURS_COMPILED if settings.device.type == "cuda" else OURS
    makers = contenders.plain_training(config, detector, images, targets)
    for name, opts in options.items():
        makers[name] = contenders.our_training(config, detector, images, targets, *opts)
    if model == TORCHVISION_MODEL:
        makers |= contenders.torchvision_training(config, images, targets, settings.candidates)
    return makers
