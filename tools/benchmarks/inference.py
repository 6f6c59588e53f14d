"""Measure latency, throughput, stages, HRNet's branches, and backbones."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import contenders
from benchmarks.models import count_candidates, load_config, make_detector, make_images, network_input
from benchmarks.plain import make_plain
from benchmarks.report import Row, Table, images_per_second, milliseconds, speedup
from benchmarks.settings import Settings
from benchmarks.timing import Timing, interleave
from fcos_core.config import Config
from fcos_core.deploy import cuda_graphs
from fcos_core.modeling.detector import Detector
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.structures.bounding_box import BoxList

# The model that torchvision also has.
TORCHVISION_MODEL = "fcos_R_50_5l_2x"
# The models whose bodies timm also has.
HRNET_MODELS = ("fcos_hrnet_w18_5l_2x", "fcos_hrnet_w32_5l_2x", "fcos_hrnet_w40_6l_3x")
PRECISIONS = {"cuda": ("float32", "tf32", "bfloat16", "float16"), "cpu": ("float32", "bfloat16")}


def latency(settings: Settings) -> list[Table]:
    """Measure the time from one image to its boxes."""
    return [_detection(settings, 1, f"Latency at batch 1, {_size(settings)}", milliseconds)]


def throughput(settings: Settings) -> list[Table]:
    """Measure images per second, from a batch to its boxes."""
    title = f"Throughput at batch {settings.batch}, {_size(settings)}"
    return [_detection(settings, settings.batch, title, lambda timing: images_per_second(timing, settings.batch))]


def _detection(settings: Settings, batch: int, title: str, columns: Callable[[Timing], Row]) -> Table:
    rows, found = [], []
    for model in settings.models:
        torch.compiler.reset()  # torch.compile recompiles a module's code a limited number of times per process
        config, detector, images = _subject(settings, model, batch)
        found.append(f"{count_candidates(config, detector, images):,.0f} of {model}")
        plain = contenders.plain_inference(config, detector, images)
        ours = {
            f"ours {precision}": contenders.our_inference(config, detector, images, precision)
            for precision in PRECISIONS[settings.device.type]
        }
        others = contenders.torchvision_inference(images, settings.candidates) if model == TORCHVISION_MODEL else {}
        runtimes = {}
        if settings.device.type == "cpu" and batch == 1:
            runtimes = contenders.exported_inference(config, detector, images, everything=False)
        calls = {**plain, **ours, **runtimes, **others}
        timings = interleave(calls, settings.device, settings.rounds, settings.warmup)
        # Compare after timing: only then do the calls run the CUDA graphs that were timed.
        same = {"ours float32": same_detections(ours["ours float32"](), calls[list(plain)[-1]]())}
        for name, timing in timings.items():
            compared = {
                "x plain": speedup(timings, name, list(plain)),
                "x torchvision": speedup(timings, name, list(others)) if others else None,
                "same as plain": same.get(name),
            }
            rows.append({"model": model, "contender": name, **columns(timing), **compared})
    note = (
        "Image on the device to boxes on the host, post-processing included. Candidates an image: "
        f"{', '.join(found)}. `x plain`, `x torchvision`: speed relative to their fastest variant. `same as plain`: "
        "share of plain's float32 detections found again within 0.05 px and 1e-4 in score."
    )
    return Table(title, note, rows)


def runtimes(settings: Settings) -> list[Table]:
    """Measure the exported detector in every runtime on the CPU, from the bytes of one image to its boxes."""
    rows = []
    settings = replace(settings, device=torch.device("cpu"))
    for model in settings.models:
        config, detector, images = _subject(settings, model, 1)
        names = PRECISIONS["cpu"] if contenders.has_bfloat16() else ("float32",)
        ours = {f"ours {name}": contenders.our_inference(config, detector, images, name) for name in names}
        calls = {**ours, **contenders.exported_inference(config, detector, images, everything=True)}
        timings = interleave(calls, settings.device, settings.rounds, settings.warmup)
        for name, timing in timings.items():
            compared = {"x ours float32": timings["ours float32"].median / timing.median}
            rows.append({"model": model, "contender": name, **milliseconds(timing), **compared})
    note = "Image to boxes, post-processing included. `x ours float32`: speed relative to the compiled detector."
    return [Table(f"Runtimes at batch 1, {_size(settings)}", note, rows)]


def stages(settings: Settings) -> list[Table]:
    """Measure each stage of the detector on one image in eager PyTorch."""
    rows = []
    for model in settings.models:
        config, detector, images = _subject(settings, model, 1)
        calls = _stage_calls(config, detector, network_input(config, images))
        with torch.no_grad():
            timings = interleave(calls, settings.device, settings.rounds, settings.warmup)
        total = sum(timings[name].median for name in ("body", "neck", "head", "post-processing, plain"))
        for name, timing in timings.items():
            rows.append(
                {"model": model, "stage": name, **milliseconds(timing), "% of plain": 100 * timing.median / total}
            )
    note = "Each stage of the eager float32 detector alone, from an idle device to an idle device."
    return [Table(f"Stages at batch 1, {_size(settings)}", note, rows)]


def _stage_calls(config: Config, detector: Detector, batch: Tensor) -> dict[str, Callable[[], Any]]:
    rpn, sizes = detector.rpn, [batch.shape[-2:]] * len(batch)
    with torch.no_grad():
        branches = detector.backbone.body(batch)
        features = detector.backbone.fpn(branches)
        outputs = rpn.head(features)
    ours = rpn.postprocess
    plain = make_plain(config, detector).rpn.postprocess
    return {
        "body": lambda: detector.backbone.body(batch),
        "neck": lambda: detector.backbone.fpn(branches),
        "head": lambda: rpn.head(features),
        "post-processing, plain": lambda: plain(compute_locations(features, rpn.strides), *outputs, sizes),
        "post-processing, ours": lambda: ours(compute_locations(features, rpn.strides), *outputs, sizes),
    }


def branches(settings: Settings) -> list[Table]:
    """Measure HRNet-W32 with parallel and with serial branches, beside ResNet-101, which has as many multiply-adds."""
    resnet, hrnet = (_subject(settings, model, 1) for model in ("fcos_R_101_5l_2x", "fcos_hrnet_w32_5l_2x"))
    calls = {
        "R_101_5l": contenders.our_inference(*resnet, settings.precision),
        "W32_5l, branches in parallel": contenders.our_inference(*hrnet, settings.precision),
        "W32_5l, branches in series": contenders.our_inference(*hrnet, settings.precision),
    }
    # The second run captures the CUDA graph; without forked streams its branches run in series.
    with mock.patch.object(cuda_graphs, "forked_streams", contextlib.nullcontext):
        calls["W32_5l, branches in series"]()
    timings = interleave(calls, settings.device, settings.rounds, settings.warmup)
    rows = [
        {"ours": name, **milliseconds(timing), "time / R_101_5l": timing.median / timings["R_101_5l"].median}
        for name, timing in timings.items()
    ]
    note = f"Ours in {settings.precision}, image on the device to boxes on the host. A CPU runs them in series only."
    return [Table(f"HRNet's branches, batch 1, {_size(settings)}", note, rows)]


def backbones(settings: Settings) -> list[Table]:
    """Measure HRNet bodies without neck and head, beside timm's if timm is installed."""
    bodies = {model: load_config(model, settings.device).MODEL.BACKBONE.CONV_BODY for model in settings.models}
    known = [model for model, body in bodies.items() if body in contenders.TIMM_NAMES]
    rows = [row for model in known or HRNET_MODELS for row in _backbone(settings, model)]
    note = "The body as PyTorch modules; the inference compiler takes whole detectors and is not used here."
    if not contenders.has_timm():
        note += " timm is not installed."
    return [Table(f"HRNet bodies at batch 1, {_size(settings)}", note, rows)]


def _backbone(settings: Settings, model: str) -> list[Row]:
    torch.compiler.reset()
    config, detector, images = _subject(settings, model, 1)
    name, batch = config.MODEL.BACKBONE.CONV_BODY, network_input(config, images)
    calls = contenders.backbone_inference("this package", detector.backbone.body, batch)
    if contenders.has_timm():
        calls |= contenders.backbone_inference("timm", contenders.timm_backbone(name), batch)
    timings = interleave(calls, settings.device, settings.rounds, settings.warmup)
    return [
        {"body": name, "contender": who, **milliseconds(timing), "x eager": speedup(timings, who, ["this package"])}
        for who, timing in timings.items()
    ]


def same_detections(found: Sequence[BoxList], expected: Sequence[BoxList]) -> float:
    """Return the share of expected detections found again: same label, within 0.05 pixels and 1e-4 in score."""
    total = matched = 0
    for ours, theirs in zip(found, expected, strict=True):
        box = (ours.bbox[None] - theirs.bbox[:, None]).abs().amax(dim=2) <= 0.05
        score = (ours.get_field("scores")[None] - theirs.get_field("scores")[:, None]).abs() <= 1e-4
        label = ours.get_field("labels")[None] == theirs.get_field("labels")[:, None]
        matched += int((box & score & label).any(dim=1).sum())
        total += len(theirs)
    return matched / max(total, 1)


def _subject(settings: Settings, model: str, batch: int) -> tuple[Config, Detector, Tensor]:
    config = load_config(model, settings.device)
    images = make_images(batch, settings.height, settings.width, settings.device)
    return config, make_detector(config, images, settings.candidates), images


def _size(settings: Settings) -> str:
    return f"3x{settings.height}x{settings.width}"
