"""A network of fixed shapes as CUDA graphs, one for each shape of its batches."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fcos_core.modeling.fcos.box_coder import make_clip_max
from fcos_core.structures.image_list import ImageList
from fcos_core.utils.streams import forked_streams

logger = logging.getLogger(__name__)

Launch = Callable[[ImageList], Tensor]


class GraphPerShape:
    """Runs the first batch of a shape as it is, and captures a graph when the second comes.

    A capture takes as long as many runs, which a shape that comes once would not earn.

    Args:
        run: batches to rows.
        capture: a batch to what does the same for batches of its shape.
        max_graphs: graphs that are kept. The shape of the least recently used one then counts as new.
    """

    def __init__(self, run: Launch, capture: Callable[[ImageList], Launch], max_graphs: int) -> None:
        self._run, self._capture, self._max_graphs = run, capture, max_graphs
        self._graphs: OrderedDict[tuple[int, ...], Launch] = OrderedDict()
        self._came_once: set[tuple[int, ...]] = set()

    def __call__(self, images: ImageList) -> Tensor:
        shape = tuple(images.tensors.shape)
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
        elif shape in self._came_once:
            self._graphs[shape] = self._capture(images)
            self._came_once.remove(shape)
            if len(self._graphs) > self._max_graphs:
                self._graphs.popitem(last=False)
        else:
            rows = self._run(images)
            self._came_once.add(shape)
            return rows
        return self._graphs[shape](images)


class GpuNetwork:
    """A network on a GPU, to be run or captured.

    All graphs share one pool of memory, as they run one after another: a graph's result may lie where another one
    keeps what it computes in between. Their inputs lie outside the pool.

    Args:
        network: images (N, channels, H, W), channels-last, and their `make_clip_max` (N, 4) to rows, in shapes that
            depend on no value.
        device: where it is.
        dtype: of the images that it takes.
        channels: that it takes; those that a batch lacks are 0.
        allow_tf32: whether its convolutions may use TF32.
        parallel: whether what is `parallel` in it becomes parallel branches of a graph.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        channels: int,
        allow_tf32: bool,
        parallel: bool,
    ) -> None:
        self.network, self.device, self.dtype, self.channels = network, device, dtype, channels
        self.allow_tf32, self.parallel = allow_tf32, parallel
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
            # Blocks of a pool are reused on the stream they were allocated on, so all captures use this one.
            self.stream = torch.cuda.Stream()

    def run(self, images: ImageList) -> Tensor:
        with torch.cuda.device(self.device):
            return self._compute(*self._inputs(images))

    def capture(self, images: ImageList) -> Launch:
        """The graph for batches of the shape of `images`; a launch overwrites the result of the one before."""
        start = time.perf_counter()
        with torch.cuda.device(self.device):
            batch, limits = self._inputs(images)
            # Kernels are loaded, and cuDNN's chosen in this thread, by a run: a capture cannot.
            self._compute(batch, limits)
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as one that pins batches, may go on calling CUDA meanwhile.
            mode = {"capture_error_mode": "thread_local"}
            with torch.cuda.graph(graph, self.pool, self.stream, **mode), forked_streams(self.parallel):
                rows = self._compute(batch, limits)
        logger.info("Captured batches of %s in %.1f s.", "x".join(map(str, batch.shape)), time.perf_counter() - start)

        def launch(images: ImageList) -> Tensor:
            with torch.cuda.device(self.device):
                self._fill(batch, limits, images)
                graph.replay()
            return rows

        return launch

    def _inputs(self, images: ImageList) -> tuple[Tensor, Tensor]:
        count, _, height, width = images.tensors.shape
        batch = torch.empty(
            count, self.channels, height, width, dtype=self.dtype, device=self.device, memory_format=torch.channels_last
        ).zero_()
        limits = torch.empty(count, 4, device=self.device)
        self._fill(batch, limits, images)
        return batch, limits

    def _fill(self, batch: Tensor, limits: Tensor, images: ImageList) -> None:
        tensors = images.tensors.to(self.device, non_blocking=True)
        batch[:, : tensors.shape[1]].copy_(tensors)
        limits.copy_(make_clip_max(images.image_sizes), non_blocking=True)

    def _compute(self, batch: Tensor, limits: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False), convolutions_in_tf32(self.allow_tf32):
            return self.network(batch, limits)


@contextmanager
def convolutions_in_tf32(allowed: bool) -> Iterator[None]:
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
