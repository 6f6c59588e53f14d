"""Run a network through CUDA graphs, one graph for each batch shape."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fcos_core.structures.image_list import ImageList
from fcos_core.utils.streams import forked_streams

logger = logging.getLogger(__name__)

# Takes a padded batch and returns its detections as rows for `to_box_lists`.
Launch = Callable[[ImageList], Tensor]


class GraphPerShape:
    """CUDA graphs by batch shape.

    Capturing takes as long as many runs, so the first batch of a shape runs without a graph and the second batch
    captures one. A graph beyond `max_graphs` replaces the least recently used one, whose shape then counts as new.

    Args:
        run: runs a batch without a graph.
        capture: returns the graph for batches of the shape of the given batch.
    """

    def __init__(self, run: Launch, capture: Callable[[ImageList], Launch], max_graphs: int) -> None:
        self._run, self._capture, self._max_graphs = run, capture, max_graphs
        self._graphs: OrderedDict[tuple[int, ...], Launch] = OrderedDict()
        self._seen_once: set[tuple[int, ...]] = set()

    def __call__(self, images: ImageList) -> Tensor:
        shape = tuple(images.tensors.shape)
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
        elif shape in self._seen_once:
            self._graphs[shape] = self._capture(images)
            self._seen_once.remove(shape)
            if len(self._graphs) > self._max_graphs:
                self._graphs.popitem(last=False)
        else:
            rows = self._run(images)
            self._seen_once.add(shape)
            return rows
        return self._graphs[shape](images)


class GpuNetwork:
    """Network on a GPU that can run a batch or capture a CUDA graph for its shape.

    All graphs share one memory pool, because only one graph runs at a time. A launch may therefore overwrite the
    result of any earlier launch. The inputs of the graphs lie outside the pool.

    Args:
        network: takes images (N, channels, H, W), channels-last, and `clip_max` (N, 4), which its method clip_max
            makes of the images' sizes; returns rows for `to_box_lists`. No shape may depend on the values in a tensor.
        device, dtype: of the images for `network`.
        channels: of the images for `network`; channels that a batch does not have are filled with zeros.
        allow_tf32: let convolutions use TF32.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, dtype: torch.dtype, channels: int, allow_tf32: bool
    ) -> None:
        self.network, self.device, self.dtype = network, device, dtype
        self.channels, self.allow_tf32 = channels, allow_tf32
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
            # The pool reuses a block only on the stream that allocated it, so all captures use one stream.
            self.stream = torch.cuda.Stream()

    def run(self, images: ImageList) -> Tensor:
        with torch.cuda.device(self.device):
            return self._compute(*self._inputs(images))

    def capture(self, images: ImageList) -> Launch:
        """Capture a graph for batches of this shape; its result is valid until the next launch of any graph."""
        start = time.perf_counter()
        with torch.cuda.device(self.device):
            batch, clip_max = self._inputs(images)
            # A capture can neither load kernels nor choose cuDNN's kernels, so a run does both first, in this thread.
            self._compute(batch, clip_max)
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as the thread that pins batches, may call CUDA during the capture.
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"), forked_streams():
                rows = self._compute(batch, clip_max)
        logger.info("Captured batches of %s in %.1f s.", "x".join(map(str, batch.shape)), time.perf_counter() - start)

        def launch(images: ImageList) -> Tensor:
            with torch.cuda.device(self.device):
                self._fill(batch, clip_max, images)
                graph.replay()
            return rows

        return launch

    def _inputs(self, images: ImageList) -> tuple[Tensor, Tensor]:
        count, _, height, width = images.tensors.shape
        batch = torch.empty(
            count, self.channels, height, width, dtype=self.dtype, device=self.device, memory_format=torch.channels_last
        ).zero_()
        clip_max = torch.empty(count, 4, device=self.device)
        self._fill(batch, clip_max, images)
        return batch, clip_max

    def _fill(self, batch: Tensor, clip_max: Tensor, images: ImageList) -> None:
        tensors = images.tensors.to(self.device, non_blocking=True)
        batch[:, : tensors.shape[1]].copy_(tensors)
        clip_max.copy_(self.network.clip_max(images.image_sizes), non_blocking=True)

    def _compute(self, batch: Tensor, clip_max: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False), convolutions_in_tf32(self.allow_tf32):
            return self.network(batch, clip_max)


@contextmanager
def convolutions_in_tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions within the context; restore PyTorch's setting afterwards."""
    cudnn = torch.backends.cudnn
    # Newer PyTorch has a setting for convolutions only, and raises an error if a program also uses the older setting.
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
