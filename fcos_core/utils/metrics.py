"""Running statistics of a training, its metrics file and its loss curve."""

import json
import logging
import math
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from fcos_core.utils.files import replacing

logger = logging.getLogger(__name__)


class SmoothedValue:
    """The last values of a series and the mean of all that are finite.

    A gradient's norm is infinite where float16 overflows and the step is left out.

    Args:
        window_size: number of values that the median is over.
    """

    def __init__(self, window_size: int = 20) -> None:
        self._recent: deque[float] = deque(maxlen=window_size)
        self._total = 0.0
        self._count = 0

    def update(self, value: float) -> None:
        self._recent.append(value)
        if math.isfinite(value):
            self._total += value
            self._count += 1

    @property
    def median(self) -> float:
        return median(self._recent)

    @property
    def global_avg(self) -> float:
        return self._total / self._count if self._count else math.inf


class MetricLogger:
    """Named `SmoothedValue`s; as a string "name: median (average)" each, as maskrcnn-benchmark logs them."""

    def __init__(self, delimiter: str = "  ", window_size: int = 20) -> None:
        self.meters: dict[str, SmoothedValue] = defaultdict(lambda: SmoothedValue(window_size))
        self.delimiter = delimiter

    def update(self, **values: float) -> None:
        for name, value in values.items():
            self.meters[name].update(float(value))

    def medians(self) -> dict[str, float]:
        """Those that are finite: JSON has no others."""
        medians = {name: meter.median for name, meter in self.meters.items()}
        return {name: value for name, value in medians.items() if math.isfinite(value)}

    def __str__(self) -> str:
        return self.delimiter.join(
            f"{name}: {meter.median:.4f} ({meter.global_avg:.4f})" for name, meter in self.meters.items()
        )


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


def plot_losses(metrics_file: str | Path, picture: str | Path) -> None:
    """Draw every loss of a metrics file over the iterations, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in read_metrics(metrics_file) if "loss" in row]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name in [key for key in rows[0] if key.startswith("loss")]:
        axes.plot([row["iteration"] for row in rows], [row[name] for row in rows], label=name)
    axes.set(xlabel="iteration", ylabel="loss (median of a log period)", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
