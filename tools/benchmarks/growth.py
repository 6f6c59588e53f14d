"""Measure the growth of time and memory with image size, batch, boxes and classes."""

import math
from collections.abc import Callable, Mapping
from functools import partial

from benchmarks import contenders, memory
from benchmarks.models import load_config, make_detector, make_images, make_targets
from benchmarks.report import Row, Table
from benchmarks.settings import Settings
from benchmarks.timing import interleave
from benchmarks.training import BOXES_PER_IMAGE, LEARNING_RATE

# Factors of height and width, for areas of about a quarter, a half, one and two.
SCALES = (0.5, 0.7, 1.0, 1.4)
BATCHES = (1, 2, 4, 8, 16)
BOXES = (10, 30, 100, 300, 1000)
# From COCO's number of classes to LVIS's.
CLASSES = (80, 200, 500, 1203)


def growth(settings: Settings) -> list[Table]:
    """Measure time and memory of the first model against image size, batch, boxes and classes."""
    sizes = [tuple(_multiple_of_32(scale * side) for side in (settings.height, settings.width)) for scale in SCALES]
    batches = [batch for batch in BATCHES if batch <= 2 * settings.batch]
    testing, training = partial(_testing, settings), partial(_training, settings)
    return [
        _table(settings, "Testing", "pixels", {h * w: partial(testing, height=h, width=w) for h, w in sizes}),
        _table(settings, "Testing", "images", {batch: partial(testing, batch=batch) for batch in batches}),
        _table(settings, "Testing", "classes", {count: partial(testing, classes=count) for count in CLASSES}),
        _table(settings, "Training", "boxes an image", {count: partial(training, boxes=count) for count in BOXES}),
        _table(settings, "Training", "classes", {count: partial(training, classes=count) for count in CLASSES}),
    ]


def _testing(settings: Settings, height: int = 0, width: int = 0, batch: int = 1, classes: int = 80) -> contenders.Call:
    config = load_config(settings.models[0], settings.device, "MODEL.FCOS.NUM_CLASSES", classes + 1)
    images = make_images(batch, height or settings.height, width or settings.width, settings.device)
    detector = make_detector(config, images, settings.candidates)
    return contenders.our_inference(config, detector, images, settings.precision)


def _training(settings: Settings, boxes: int = BOXES_PER_IMAGE, classes: int = 80) -> contenders.Call:
    options = ("MODEL.FCOS.NUM_CLASSES", classes + 1, *LEARNING_RATE)
    config = load_config(settings.models[0], settings.device, *options)
    images = make_images(settings.train_batch, settings.height, settings.width, settings.device)
    detector = make_detector(config, images, settings.candidates)
    targets = make_targets(len(images), boxes, settings.height, settings.width, classes + 1, settings.device)
    return contenders.our_training(config, detector, images, targets, "SOLVER.PRECISION", settings.precision)()


def _table(settings: Settings, phase: str, unit: str, points: Mapping[int, Callable[[], contenders.Call]]) -> Table:
    peaks = {size: memory.measure_memory(make, settings.device).peak for size, make in points.items()}
    calls = {str(size): make() for size, make in points.items()}
    timings = interleave(calls, settings.device, settings.rounds, settings.warmup)
    seconds = {size: timings[str(size)].median for size in points}
    note = (
        f"Ours, {settings.models[0]}, {settings.precision}; by default {settings.height}x{settings.width}, "
        f"batch {1 if phase == 'Testing' else settings.train_batch}, {BOXES_PER_IMAGE} boxes, 80 classes. "
        "`exponent`: of the power law from the row above; 1 is proportional growth."
    )
    return Table(f"{phase}: growth with {unit}", note, growth_rows(unit, seconds, peaks, memory.label(settings.device)))


def growth_rows(unit: str, seconds: Mapping[int, float], peaks: Mapping[int, int], memory_label: str) -> list[Row]:
    """Make a row per size, with the exponents of the power laws that lead from the previous size to this size.

    Args:
        unit: name of the size, such as "pixels".
        seconds, peaks: time and peak memory in bytes by size, in ascending order.
        memory_label: name of the memory, such as "GB resident".
    """
    rows, before = [], None
    for size in seconds:
        rows.append(
            {
                unit: size,
                "ms": 1e3 * seconds[size],
                "time exponent": before and _exponent(size / before, seconds[size] / seconds[before]),
                f"peak {memory_label}": peaks[size] / 1e9,
                "memory exponent": before and _exponent(size / before, peaks[size] / peaks[before]),
            }
        )
        before = size
    return rows


def _exponent(of_input: float, of_output: float) -> float:
    return round(math.log(of_output) / math.log(of_input), 2)


def _multiple_of_32(pixels: float) -> int:
    return max(round(pixels / 32), 1) * 32
