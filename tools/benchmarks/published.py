"""Measure test time and training memory of the models in the published table."""

from typing import NamedTuple

from benchmarks import contenders, memory
from benchmarks.models import load_config, make_detector, make_images
from benchmarks.report import Table
from benchmarks.settings import Settings
from benchmarks.timing import interleave
from benchmarks.training import training_subject


class Published(NamedTuple):
    """Published test time in ms per image, and training memory in GB over 8 GPUs at 16 images."""

    test_ms: int
    training_gb: float


_R_50_5L, _W18_5L, _R_50_6L = Published(71, 29.3), Published(75, 54.4), Published(75, 58.2)
_W18_6L, _R_101_5L, _W32_5L = Published(105, 88.1), Published(74, 44.1), Published(82, 78.9)
_R_101_6L, _W32_6L, _W40_6L = Published(115, 71.0), Published(120, 108.6), Published(139, 128.0)
PUBLISHED = {
    "fcos_R_50_5l_2x": _R_50_5L,
    "fcos_hrnet_w18_5l_2x": _W18_5L,
    "fcos_hrnet_w18_5l_ms_syncbn_2x": _W18_5L,
    "fcos_R_50_6l_2x": _R_50_6L,
    "fcos_hrnet_w18_6l_2x": _W18_6L,
    "fcos_hrnet_w18_6l_ms_syncbn_2x": _W18_6L,
    "fcos_R_101_5l_2x": _R_101_5L,
    "fcos_hrnet_w32_5l_2x": _W32_5L,
    "fcos_hrnet_w32_5l_syncbn_2x": _W32_5L,
    "fcos_R_101_6l_2x": _R_101_6L,
    "fcos_hrnet_w32_6l_2x": _W32_6L,
    "fcos_hrnet_w32_6l_syncbn_2x": _W32_6L,
    "fcos_hrnet_w40_6l_3x": _W40_6L,
}
GPUS = 8


def table(settings: Settings) -> list[Table]:
    """Measure test time and training memory of the 13 published models, beside the published values."""
    rows = []
    for model, published in PUBLISHED.items():
        config = load_config(model, settings.device)
        images = make_images(1, settings.height, settings.width, settings.device)
        detector = make_detector(config, images, settings.candidates)
        calls = contenders.plain_inference(config, detector, images)
        calls["ours"] = contenders.our_inference(config, detector, images, settings.precision)
        timings = interleave(calls, settings.device, settings.rounds, settings.warmup)
        subject = training_subject(settings, model)
        plain = contenders.plain_training(*subject)["plain"]
        ours = contenders.our_training(*subject, "SOLVER.PRECISION", settings.precision)
        rows.append(
            {
                "model": model,
                "test ms, published": published.test_ms,
                "test ms, plain": 1e3 * min(timings[name].median for name in contenders.plain_names(settings.device)),
                "test ms, ours": 1e3 * timings["ours"].median,
                "training GB, published / 8": published.training_gb / GPUS,
                "training GB, plain": memory.measure_memory(plain, settings.device).peak / 1e9,
                "training GB, ours": memory.measure_memory(ours, settings.device).peak / 1e9,
            }
        )
    note = (
        f"Published: ms per image in testing; an eighth of the training memory over {GPUS} GPUs at 16 images, so the "
        "memory of two images; the authors give one figure per network. Plain and ours "
        f"({settings.precision}): {settings.device}, {settings.height}x{settings.width}, one image in testing, "
        f"{settings.train_batch} in training ({memory.label(settings.device)})."
    )
    return [Table("The published table", note, rows)]
