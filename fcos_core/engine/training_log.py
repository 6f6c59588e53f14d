"""Log lines and metrics of the training loop."""

import datetime
import logging
import resource
import time
from collections.abc import Mapping

import torch

from fcos_core.utils import comm
from fcos_core.utils.folder_lock import FolderLock
from fcos_core.utils.meters import MetricLogger
from fcos_core.utils.metrics_file import MetricsWriter
from fcos_core.utils.trackers import TrackerSettings

logger = logging.getLogger(__name__)


class TrainingLog:
    """Times and losses of a training: a line in the log and in the metrics file every log period.

    Args:
        folder: gets metrics.jsonl and TensorBoard's files; empty: neither.
        first, max_iter: first and last iteration of this run.
        period: iterations between lines.
        recent: as `recent` returned it after the iteration before `first`.
        folder_lock: lock on `folder`; it raises InputError here if the folder was replaced during the run.
        trackers: get the lines of the metrics file too.
    """

    def __init__(
        self,
        folder: str,
        first: int,
        max_iter: int,
        period: int,
        recent: Mapping[str, list[float]] | None = None,
        folder_lock: FolderLock | None = None,
        trackers: TrackerSettings | None = None,
    ) -> None:
        self.first = first
        self.max_iter = max_iter
        self.period = period
        self._meters = MetricLogger(period, recent)
        writes = folder and comm.is_main_process()
        self._writer = MetricsWriter(folder, first - 1, trackers) if writes else None
        self._folder_lock = folder_lock
        self._begin = time.perf_counter()

    def start_iteration(self) -> None:
        self._start = time.perf_counter()

    def data_is_read(self) -> None:
        self._data_time = time.perf_counter() - self._start

    def count(self, values: dict[str, float]) -> None:
        """Count the time, the losses (named "loss...") and other `values` of an iteration."""
        losses = {name: value for name, value in values.items() if name.startswith("loss")}
        seconds = time.perf_counter() - self._start
        self._meters.update(loss=sum(losses.values()), **values, time=seconds, data=self._data_time)

    def recent(self) -> dict[str, list[float]]:
        """Return the values that the next medians are taken from, so that a resumed run writes the same medians."""
        return self._meters.recent()

    def end_iteration(self, iteration: int, num_images: int, lr: float) -> None:
        """Log a line if a period ends; `num_images` are of this process."""
        if comm.is_main_process() and (iteration % self.period == 0 or iteration == self.max_iter):
            self._write(iteration, num_images * comm.get_world_size(), lr)

    def evaluated(self, iteration: int, metrics: dict[str, float]) -> None:
        """Write the metrics of an evaluation after `iteration`."""
        self._write_metrics(iteration, metrics)

    def finish(self) -> None:
        """Log the total time and close the files."""
        if self._writer is not None:
            self._writer.close()
        seconds = time.perf_counter() - self._begin
        per_iteration = seconds / max(self.max_iter - self.first + 1, 1)
        logger.info("Total training time: %s (%.4f s / it)", datetime.timedelta(seconds=int(seconds)), per_iteration)

    def _write(self, iteration: int, num_images: int, lr: float) -> None:
        medians, memory = self._meters.medians(), _peak_memory_mb()
        eta = datetime.timedelta(seconds=int(self._meters.meters["time"].global_avg * (self.max_iter - iteration)))
        line = [f"eta: {eta}", f"iter: {iteration}", str(self._meters), f"lr: {lr:.6f}", f"max mem: {memory:.0f}"]
        logger.info(self._meters.delimiter.join(line))
        speed = num_images / medians["time"]
        self._write_metrics(iteration, {**medians, "lr": lr, "max_mem": memory, "images_per_s": speed})

    def _write_metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        if self._folder_lock is not None:
            self._folder_lock.check()
        if self._writer is not None:
            self._writer.write(iteration, values)


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
