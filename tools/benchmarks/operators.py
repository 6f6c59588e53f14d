"""Measure each operator beside its PyTorch or torchvision counterpart and beside the device's copy bandwidth."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from benchmarks.models import SEED, make_targets
from benchmarks.plain import broadcast_targets
from benchmarks.report import Row, Table, milliseconds, speedup
from benchmarks.settings import Settings
from benchmarks.timing import Timing, cuda_seconds, interleave
from fcos_core.layers import SigmoidFocalLoss, nms_mask
from fcos_core.layers.group_norm_relu import group_norm_relu
from fcos_core.layers.own_dtype import GroupNorm
from fcos_core.layers.sigmoid_focal_loss import sigmoid_focal_loss
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.modeling.fcos.targets import DEFAULT_RANGES, assign_targets

NUM_CLASSES = 80
GAMMA, ALPHA = 2.0, 0.25
NMS_CANDIDATES, NMS_THRESHOLD = 5000, 0.6
TARGET_BOXES = 300
HEAD_CHANNELS = 256
# Several sets of inputs take turns. Together they exceed the caches, as the inputs in a training do.
_CACHE_BYTES = 256 * 2**20
_COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}
# Short on CUDA, because a device queues about a thousand launches at most.
_LEAST_SECONDS = {"cuda": 5e-4, "cpu": 0.02}

Calls = dict[str, Callable[[], Any]]


def operators(settings: Settings) -> list[Table]:
    """Measure focal loss, NMS, target assignment, and on CUDA the head's normalization."""
    copy = copy_bandwidth(settings)
    tables = [*focal_loss(settings, copy), nms(settings), targets(settings)]
    return [*tables, group_norm(settings, copy)] if settings.device.type == "cuda" else tables


def copy_bandwidth(settings: Settings) -> float:
    """Return the bytes per second that the device reads and writes when it copies a large tensor."""
    source = torch.zeros(_COPY_BYTES[settings.device.type], dtype=torch.uint8, device=settings.device)
    target = torch.ones_like(source)
    timing = _time({"copy": lambda: target.copy_(source)}, settings)["copy"]
    return 2 * source.numel() / timing.median


def focal_loss(settings: Settings, copy: float) -> list[Table]:
    """Measure the normalized sum of the loss and its gradient; one table per dtype of the logits."""
    locations = _locations(settings.height, settings.width, (8, 16, 32, 64, 128), settings.device)
    rows = settings.batch * sum(map(len, locations))
    dtypes = (torch.float32, torch.bfloat16, torch.float16) if settings.device.type == "cuda" else (torch.float32,)
    return [_focal_loss(settings, copy, rows, dtype) for dtype in dtypes]


def _focal_loss(settings: Settings, copy: float, rows: int, dtype: torch.dtype) -> Table:
    timings = _time(focal_loss_calls(rows, dtype, settings.device), settings)
    # Any implementation reads each logit and writes its gradient at least once.
    table = _rows(timings, "torchvision", 2 * rows * NUM_CLASSES * dtype.itemsize, copy)
    note = (
        f"Sum over {rows:,} locations x {NUM_CLASSES} classes, forward and backward. GB/s counts each logit read and "
        f"each gradient written once, even if a contender moves more; a copy runs at {copy / 1e9:,.0f} GB/s."
    )
    return Table(f"Focal loss, {str(dtype).removeprefix('torch.')}", note, table)


def focal_loss_calls(rows: int, dtype: torch.dtype, device: torch.device) -> Calls:
    """Build contenders that set the gradient of the logits (rows, 80) and return the loss."""
    generator = torch.Generator().manual_seed(SEED)
    first = (torch.randn(rows, NUM_CLASSES, generator=generator) - 4).to(device, dtype)
    sets = max(math.ceil(_CACHE_BYTES / (first.numel() * dtype.itemsize)), 2)
    logits = [first.clone().requires_grad_() for _ in range(sets)]
    # One location in fifty is positive.
    labels = torch.randint(1, 50 * NUM_CLASSES + 1, (rows,), generator=generator).to(device)
    labels = labels.where(labels <= NUM_CLASSES, 0)
    one_hot = F.one_hot(labels, NUM_CLASSES + 1)[:, 1:].to(dtype)
    normalizer = (labels > 0).sum() + 1
    compiled = torch.compile(torchvision_focal_loss, dynamic=False)
    losses = {
        "torchvision": (torchvision_focal_loss, one_hot),
        "torchvision compiled": (compiled, one_hot),
        "plain": (plain_focal_loss, labels),
        "ours": (our_focal_loss, labels),
    }

    def forward_backward(loss: Callable[..., Tensor], truth: Tensor, inputs: Iterator[Tensor]) -> Tensor:
        x = next(inputs)
        x.grad = None
        value = loss(x, truth, normalizer)
        value.backward()
        return value.detach()

    return {name: partial(forward_backward, *how, itertools.cycle(logits)) for name, how in losses.items()}


def torchvision_focal_loss(logits: Tensor, one_hot: Tensor, normalizer: Tensor) -> Tensor:
    """Return torchvision's loss of one-hot targets, summed."""
    return torchvision.ops.sigmoid_focal_loss(logits, one_hot, ALPHA, GAMMA, reduction="sum") / normalizer


def plain_focal_loss(logits: Tensor, labels: Tensor, normalizer: Tensor) -> Tensor:
    """Store the loss of every element, then sum."""
    return sigmoid_focal_loss(logits, labels, GAMMA, ALPHA).sum() / normalizer


def our_focal_loss(logits: Tensor, labels: Tensor, normalizer: Tensor) -> Tensor:
    """Return our loss, summed without the losses of the elements in memory."""
    return SigmoidFocalLoss(GAMMA, ALPHA)(logits, labels, 1 / normalizer)


def nms(settings: Settings) -> Table:
    """Measure NMS per class over a batch of images."""
    timings = _time(nms_calls(settings.batch, NMS_CANDIDATES, settings.device), settings)
    note = f"{settings.batch} images x {NMS_CANDIDATES:,} boxes of {NUM_CLASSES} classes, IoU {NMS_THRESHOLD}."
    return Table("Batched NMS", note, _rows(timings, "torchvision"))


def nms_calls(images: int, candidates: int, device: torch.device) -> Calls:
    """Build contenders that find the kept boxes on the device."""
    generator = torch.Generator().manual_seed(SEED)
    # Each of many objects has a cluster of about ten boxes.
    objects = max(candidates // 10, 1)
    of_object = torch.randint(objects, (images, candidates), generator=generator)
    centres = (torch.rand(images, objects, 2, generator=generator) * 800).gather(
        1, of_object[..., None].expand(-1, -1, 2)
    )
    halves = (16 + 64 * torch.rand(images, objects, 1, generator=generator)).gather(1, of_object[..., None])
    shifts = torch.randn(images, candidates, 2, generator=generator) * halves / 10
    boxes = torch.cat([centres + shifts - halves, centres + shifts + halves], dim=2).to(device)
    scores = torch.rand(images, candidates, generator=generator).to(device)
    labels = (of_object % NUM_CLASSES + 1).to(device)
    return {
        "torchvision": lambda: torchvision_nms(boxes, scores, labels),
        "ours": lambda: our_nms(boxes, scores, labels),
    }


def torchvision_nms(boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the indices of the kept boxes, one image at a time."""
    images = zip(boxes, scores, labels, strict=True)
    return [torchvision.ops.batched_nms(*image, NMS_THRESHOLD) for image in images]


def our_nms(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Return a mask (N * M,) of the kept boxes, all images in one call."""
    groups = labels + torch.arange(len(labels), device=labels.device)[:, None] * (NUM_CLASSES + 1)
    return nms_mask(boxes.flatten(0, 1), scores.flatten(), groups.flatten(), NMS_THRESHOLD)


def targets(settings: Settings) -> Table:
    """Measure the assignment of boxes to the locations of a batch."""
    images = 2 * settings.batch
    timings = _time(target_calls(images, TARGET_BOXES, settings.height, settings.width, settings.device), settings)
    note = f"{images} images of {settings.height}x{settings.width} x {TARGET_BOXES} boxes, six levels."
    return Table("Target assignment", note, _rows(timings, "plain"))


def target_calls(images: int, boxes: int, height: int, width: int, device: torch.device) -> Calls:
    """Build contenders that return labels (N, L) and distances (N, L, 4)."""
    boxes = make_targets(images, boxes, height, width, NUM_CLASSES + 1, device)
    locations = _locations(height, width, (4, 8, 16, 32, 64, 128), device)
    return {
        "plain": lambda: broadcast_targets(locations, DEFAULT_RANGES[6], boxes),
        "ours": lambda: assign_targets(locations, DEFAULT_RANGES[6], boxes),
    }


def group_norm(settings: Settings, copy: float) -> Table:
    """Measure GroupNorm and ReLU on the head's largest map in bfloat16."""
    shape = (settings.batch, HEAD_CHANNELS, math.ceil(settings.height / 8), math.ceil(settings.width / 8))
    timings = _time(group_norm_calls(shape, torch.bfloat16, settings.device), settings)
    # Forward reads x and writes y; backward reads x and the gradient of y and writes the gradient of x.
    rows = _rows(timings, "PyTorch", 5 * math.prod(shape) * 2, copy)
    note = (
        f"{'x'.join(map(str, shape))}, channels-last, forward and backward. GB/s counts five maps read or written, "
        f"even if a contender moves more; a copy runs at {copy / 1e9:,.0f} GB/s."
    )
    return Table("GroupNorm and ReLU, bfloat16", note, rows)


def group_norm_calls(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Calls:
    """Build contenders that set the gradients of a map (N, C, H, W), weight and bias, and return the output."""
    torch.manual_seed(SEED)
    norm = GroupNorm(32, shape[1]).to(device)
    sets = max(math.ceil(_CACHE_BYTES / (math.prod(shape) * dtype.itemsize)), 2)
    maps = [torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last) for _ in range(sets)]
    grad = torch.ones_like(maps[0])

    def forward_backward(layer: Callable[[Tensor], Tensor], inputs: Iterator[Tensor]) -> Tensor:
        x = next(inputs).requires_grad_()
        x.grad = None
        y = layer(x)
        y.backward(grad)
        return y.detach()

    layers = {"PyTorch": lambda x: F.relu_(norm(x)), "ours": lambda x: group_norm_relu(x, norm)}
    return {name: partial(forward_backward, layer, itertools.cycle(maps)) for name, layer in layers.items()}


def _locations(height: int, width: int, strides: Sequence[int], device: torch.device) -> list[Tensor]:
    sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in strides]
    return compute_locations([torch.empty(1, 0, *size, device=device) for size in sizes], strides)


def _time(calls: Calls, settings: Settings) -> dict[str, Timing]:
    """Time the calls, on CUDA by the device's clock: some operators run faster than Python launches them."""
    measure = cuda_seconds if settings.device.type == "cuda" else None
    least = _LEAST_SECONDS[settings.device.type]
    return interleave(calls, settings.device, settings.rounds, settings.warmup, least, measure)


def _rows(
    timings: Mapping[str, Timing], baseline: str, least_bytes: int | None = None, copy: float | None = None
) -> list[Row]:
    """Make a row per contender; with `least_bytes` also the rate in GB/s and as a percentage of a copy's."""
    rows: list[Row] = []
    for name, timing in timings.items():
        row = {"contender": name, **milliseconds(timing), f"x {baseline}": speedup(timings, name, [baseline])}
        if least_bytes is not None:
            rate = least_bytes / timing.median
            row |= {"GB/s": rate / 1e9, "% of copy": 100 * rate / copy}
        rows.append(row)
    return rows
