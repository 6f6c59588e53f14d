"""Write the metrics of a training to a file and to TensorBoard, and read the file."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_core.utils.files import replacing

logger = logging.getLogger(__name__)


class MetricsWriter:
    """Writer of metrics as lines of JSON in `folder`/metrics.jsonl and, if installed, as TensorBoard curves.

    Lines that an earlier run wrote about iterations after `iteration`, the last finished one, are removed.
    """

    def __init__(self, folder: str | Path, iteration: int) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._path = Path(folder) / "metrics.jsonl"
        if self._path.exists():
            rows = [row for row in read_metrics(self._path) if row["iteration"] <= iteration]
            with replacing(str(self._path)) as file:
                file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        self._curves = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("TensorBoard is not installed: metrics are written to %s only.", self._path)
        else:
            self._curves = SummaryWriter(Path(folder) / "tensorboard", purge_step=iteration + 1)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append the line {"iteration": iteration, **values}, and a point to the curve of each value."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        if self._curves is not None:
            for name, value in values.items():
                self._curves.add_scalar(name, value, iteration)
            self._curves.flush()

    def close(self) -> None:
        if self._curves is not None:
            self._curves.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the objects of a metrics file; skip a line that a crash cut off."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("Skipped a line of %s that is cut off.", path)
    return rows
