"""Write the metrics of a training to a file, to TensorBoard and to trackers, and read the file."""

import functools
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_core.utils.files import explaining_failure, replacing
from fcos_core.utils.trackers import Tracker, TrackerSettings

logger = logging.getLogger(__name__)


class MetricsWriter:
    """Writer of metrics as lines of JSON in `folder`/metrics.jsonl and, if installed, as TensorBoard curves.

    `trackers` get them too; after an `iteration` above 0 the runs of the earlier training continue, and get the lines
    that they lack: lines that a tracker had not written yet are lost with a process that is killed.
    Lines that an earlier run wrote about iterations after `iteration`, the last finished one, are removed. What it
    wrote about `iteration` itself, such as an evaluation that a resumed run repeats, is not written twice.

    Raises:
        InputError: here and in `write`: the files cannot be written; here: a tracker cannot start.
    """

    def __init__(self, folder: str | Path, iteration: int, trackers: TrackerSettings | None = None) -> None:
        self._path = Path(folder) / "metrics.jsonl"
        self._first = iteration
        self._written: list[set[str]] = []
        self._curves = None
        self._trackers: list[Tracker] = []
        with explaining_failure(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            rows = self._keep_rows_until(iteration) if self._path.exists() else []
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                logger.info("TensorBoard is not installed: metrics are written to %s only.", self._path)
            else:
                _hush_tensorboard()
                self._curves = SummaryWriter(self._path.parent / "tensorboard", purge_step=iteration + 1)
            if trackers is not None:
                self._trackers = trackers.start(self._path.parent, resumed=iteration > 0)
        for tracker in self._trackers:
            for row in rows:
                if row["iteration"] > tracker.has:
                    tracker.write(row["iteration"], {name: row[name] for name in row if name != "iteration"})

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append the line {"iteration": iteration, **values}, and a point to the curve of each value."""
        if iteration == self._first and values.keys() in self._written:
            return
        with explaining_failure(self._path):
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"iteration": iteration, **values}) + "\n")
            if self._curves is not None:
                for name, value in values.items():
                    self._curves.add_scalar(name, value, iteration)
                self._curves.flush()
        for tracker in self._trackers:
            tracker.write(iteration, values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
        if self._curves is not None:
            with explaining_failure(self._path):
                self._curves.close()

    def _keep_rows_until(self, iteration: int) -> list[dict[str, Any]]:
        rows = [row for row in read_metrics(self._path) if row["iteration"] <= iteration]
        self._written = [row.keys() - {"iteration"} for row in rows if row["iteration"] == iteration]
        with replacing(str(self._path)) as file:
            file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        return rows


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the objects of a metrics file; skip a line that a crash cut off."""
    rows = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            # A number of thousands of digits is a ValueError, a line of brackets a RecursionError.
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and isinstance(row.get("iteration"), int):
                rows.append(row)
            else:
                logger.warning("Skipped a line of %s that is cut off.", path)
    return rows


@functools.cache
def _hush_tensorboard() -> None:
    """Print no traceback of TensorBoard's thread, whose errors come again in the thread that calls TensorBoard."""
    former = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            former(arguments)

    threading.excepthook = hook
