"""The inference compiler: a detector that computes the same, as fast as its device can."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from fcos_core.errors import InputError, require
from fcos_core.layers.conv_norm import convert_convs
from fcos_core.modeling.backbone.pad_channels import pad_channels
from fcos_core.modeling.detector import Detector
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.modeling.fcos.postprocess import last_pixels, to_box_lists
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList, to_image_list
from fcos_core.utils.streams import forked_streams

INFERENCE_PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

logger = logging.getLogger(__name__)


def compile_for_inference(
    model: Detector,
    device: torch.device | str | None = None,
    precision: str = "float32",
    parallel: bool = True,
    max_graphs: int = 16,
) -> "CompiledDetector":
    """A copy of `model` for inference alone; `model` stays as it is, and what is done to it later does not reach it.

    Norms with fixed statistics go into the convolutions before them, weights and activations are channels-last and of
    the chosen precision. On a CPU, oneDNN adds and rectifies in its convolutions. On a GPU everything from the padded
    batch to the detections is a CUDA graph, captured when a second batch of a shape comes. Group normalization sees
    the padding, so shapes cannot be rounded up without changing results: a graph serves one padded batch shape.

    Args:
        model: as `build_detection_model` makes it.
        device: where it is to run; where `model` is without it.
        precision: "float32", on GPUs without TF32; "tf32", float32 whose convolutions may use TF32 (GPU);
            "bfloat16"; "float16" (GPU). Normalization is summed in float32, scores and boxes are float32 in all.
        parallel: GPU: HRNet's branches, and the head's towers on every level, are parallel branches of the graph.
        max_graphs: GPU: captured graphs that are kept; the least recently used is dropped.

    Raises:
        InputError: an argument is not as above, or a precision that the device does not have.
    """
    device = torch.device(device) if device is not None else next(model.parameters()).device
    known = ", ".join(INFERENCE_PRECISIONS)
    require(precision in INFERENCE_PRECISIONS, "Inference precision", precision, f"one of {known}")
    require(max_graphs >= 1, "max_graphs", max_graphs, "1 or more")
    if device.type != "cuda" and precision in ("tf32", "float16"):
        raise InputError(f"Inference in {precision} needs a CUDA device; on '{device}' use float32 or bfloat16.")
    detector = _prepared(model, device, INFERENCE_PRECISIONS[precision])
    if device.type != "cuda":
        return CompiledDetector(detector)
    # Tensor cores take 16 bytes of channels at once; true float32 does not use them.
    itemsize = INFERENCE_PRECISIONS[precision].itemsize
    channels = pad_channels(detector.backbone, 1 if precision == "float32" else 16 // itemsize)
    capture = partial(_FixedShape, _Network(detector), precision, parallel, _Memory(device), channels)
    return CompiledDetector(detector, lru_cache(max_graphs)(capture))


def _prepared(model: Detector, device: torch.device, dtype: torch.dtype) -> Detector:
    # In float64 what is folded is rounded once, to `dtype`.
    detector = copy.deepcopy(model).to(device).double().eval().requires_grad_(False)
    detector.zero_grad(set_to_none=True)
    num_folded = convert_convs(detector)
    # What makes the logarithms of distances: rounded to a half type, distances would be off by percents. And what
    # scales the normalized, as in training.
    norms = [module for module in detector.modules() if isinstance(module, nn.GroupNorm)]
    precise = nn.ModuleList([detector.rpn.head.bbox_pred, detector.rpn.head.scales, *norms])
    unrounded = precise.state_dict()
    detector.to(dtype=dtype, memory_format=torch.channels_last)
    precise.to(torch.float32).load_state_dict(unrounded)
    logger.info("Compiled for inference on %s in %s: %d norms folded.", device, dtype, num_folded)
    return detector


class CompiledDetector(nn.Module):
    """What `compile_for_inference` returns: images to detections. It stays in evaluation mode.

    Args:
        detector: one that is prepared for inference.
        graphs: the shape of a padded batch to what makes rows for `to_box_lists` of such batches; without it the
            detector is called. A graph is to be launched from one stream at a time: all calls share buffers.
    """

    def __init__(
        self,
        detector: Detector,
        graphs: Callable[[tuple[int, ...]], Callable[[ImageList], Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector.eval()
        self.graphs = graphs
        parameter = next(detector.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def train(self, mode: bool = True) -> "CompiledDetector":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: ImageList | Tensor | Sequence[Tensor]) -> list[BoxList]:
        """Detections as `Detector.forward` gives them in evaluation mode; those of a GPU are on the CPU."""
        images = to_image_list(images, size_divisible=32)
        if self.graphs is not None:
            return to_box_lists(self.launch(images).cpu(), images.image_sizes)
        batch = images.tensors.to(self.device, self.dtype, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, enabled=False):
            return self.detector(ImageList(batch, images.image_sizes))

    @torch.no_grad()
    def launch(self, images: ImageList) -> Tensor:
        """Queue the detection of `images` on the GPU without waiting for it.

        Returns:
            (N, D, 6) float32 rows on the GPU, which `to_box_lists` reads; the next launch overwrites them.
        """
        return self.graphs(tuple(images.tensors.shape))(images)


class _Network(nn.Module):
    """Padded images and their `last_pixels` to the rows of their detections, in shapes that depend on no value."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, limits: Tensor) -> Tensor:
        rpn = self.detector.rpn
        features = self.detector.backbone(images)
        outputs = rpn.head(features)
        locations = compute_locations(features, rpn.strides)
        return rpn.postprocess.fixed_size(locations, *outputs, limits)


class _Memory:
    """What the graphs of one detector share: they run one after another.

    A graph's results may lie where another one keeps what it computes in between, so they are read before the next
    graph is launched. Its inputs lie outside the pool.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
            # Blocks of a pool are reused on the stream they were allocated on, so all captures use this one.
            self.stream = torch.cuda.Stream()


class _FixedShape:
    """The network for batches of one shape: run as it is for the first of them, and captured for the next.

    A capture takes as long as many runs, which a shape that comes once would not earn. The first run also loads
    kernels and lets cuDNN choose among its own, which a capture cannot.
    """

    def __init__(
        self,
        network: _Network,
        precision: str,
        parallel: bool,
        memory: _Memory,
        channels: int,
        shape: tuple[int, ...],
    ) -> None:
        self.network, self.precision, self.parallel = network, precision, parallel
        self.memory, self.shape = memory, (shape[0], channels, *shape[2:])
        self.device, self.dtype = memory.stream.device, INFERENCE_PRECISIONS[precision]
        self.is_known = False
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: ImageList) -> Tensor:
        limits = last_pixels(images.image_sizes)
        with torch.cuda.device(self.device):
            batch = images.tensors.to(self.device, non_blocking=True)
            if not self.is_known:
                rows = self._run(*self._inputs(batch, limits))
                self.is_known = True
                return rows
            if self.graph is None:
                self._capture(batch, limits)
            self.images[:, : batch.shape[1]].copy_(batch)
            self.limits.copy_(limits, non_blocking=True)
            self.graph.replay()
        return self.rows

    def _inputs(self, batch: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        images = images.contiguous(memory_format=torch.channels_last)
        images[:, : batch.shape[1]].copy_(batch)
        return images, limits.to(self.device)

    def _run(self, images: Tensor, limits: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False), _tf32(self.precision != "float32"):
            return self.network(images, limits)

    def _capture(self, batch: Tensor, limits: Tensor) -> None:
        start = time.perf_counter()
        self.images, self.limits = self._inputs(batch, limits)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as one that pins batches, may go on calling CUDA meanwhile.
        mode = {"capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, self.memory.pool, self.memory.stream, **mode), forked_streams(self.parallel):
            self.rows = self._run(self.images, self.limits)
        self.graph = graph
        shape = "x".join(map(str, self.shape))
        logger.info("Captured batches of %s in %.1f s.", shape, time.perf_counter() - start)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions chosen within it may use TF32; PyTorch's setting is as before afterwards."""
    cudnn = torch.backends.cudnn
    # Newer PyTorch has a setting for convolutions alone, and refuses the older one to those who use that.
    if hasattr(cudnn, "conv"):
        setting, name, value = cudnn.conv, "fp32_precision", "tf32" if allowed else "ieee"
    else:
        setting, name, value = cudnn, "allow_tf32", allowed
    before = getattr(setting, name)
    setattr(setting, name, value)
    try:
        yield
    finally:
        setattr(setting, name, before)
