"""Running statistics of a training, its metrics file and its loss curve."""

import json
from collections import defaultdict, deque
from pathlib import Path
from statistics import median
from typing import Any


class SmoothedValue:
    """The last values of a series and the mean of all of them.

    Args:
        window_size: number of values that the median is over.
    """

    def __init__(self, window_size: int = 20) -> None:
        self._recent: deque[float] = deque(maxlen=window_size)
        self._total = 0.0
        self._count = 0

    def update(self, value: float) -> None:
        self._recent.append(value)
        self._total += value
        self._count += 1

    @property
    def median(self) -> float:
        return median(self._recent)

    @property
    def global_avg(self) -> float:
        return self._total / self._count


class MetricLogger:
    """Named `SmoothedValue`s; as a string "name: median (average)" each, as maskrcnn-benchmark logs them."""

    def __init__(self, delimiter: str = "  ") -> None:
        self.meters: dict[str, SmoothedValue] = defaultdict(SmoothedValue)
        self.delimiter = delimiter

    def update(self, **values: float) -> None:
        for name, value in values.items():
            self.meters[name].update(float(value))

    def medians(self) -> dict[str, float]:
        return {name: meter.median for name, meter in self.meters.items()}

    def __str__(self) -> str:
        return self.delimiter.join(
            f"{name}: {meter.median:.4f} ({meter.global_avg:.4f})" for name, meter in self.meters.items()
        )


def append_metrics(path: str | Path, **values: Any) -> None:
    """Add one JSON object as a line to the metrics file, made with its folder where it is not there."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def plot_losses(metrics_file: str | Path, picture: str | Path) -> None:
    """Draw every loss of a metrics file over the iterations, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # A run that was resumed wrote some iterations twice; the later line holds.
    lines = [json.loads(line) for line in Path(metrics_file).read_text(encoding="utf-8").splitlines()]
    rows = sorted({row["iteration"]: row for row in lines}.values(), key=lambda row: row["iteration"])
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name in [key for key in rows[0] if key.startswith("loss")]:
        axes.plot([row["iteration"] for row in rows], [row[name] for row in rows], label=name)
    axes.set(xlabel="iteration", ylabel="loss (median of 20)", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
