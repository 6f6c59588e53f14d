"""The metrics file of a training, and the same numbers for TensorBoard."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_core.utils.files import replacing

logger = logging.getLogger(__name__)


class MetricsWriter:
    """Numbers of iterations: lines of JSON in `folder`/metrics.jsonl, and TensorBoard's curves where it is installed.

    Args:
        folder: made where it is not there.
        iteration: that the training goes on from; what an earlier run wrote of later ones is removed.
    """

    def __init__(self, folder: str | Path, iteration: int) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._path = Path(folder) / "metrics.jsonl"
        if self._path.exists():
            _keep_until(self._path, iteration)
        self._curves = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("TensorBoard is not installed: curves are in %s alone.", self._path)
        else:
            self._curves = SummaryWriter(Path(folder) / "tensorboard", purge_step=iteration + 1)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add a line, {"iteration": iteration, **values}, and a point to each value's curve."""
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
    """The objects of a metrics file; a line that a crash cut off is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("A line of %s is cut off and left out.", path)
    return rows


def _keep_until(path: Path, iteration: int) -> None:
    rows = [row for row in read_metrics(path) if row["iteration"] <= iteration]
    with replacing(str(path)) as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
