"""Running statistics of a training: medians and averages."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median


class SmoothedValue:
    """Median of the last `window_size` values of a series, and average of all its finite values.

    The norm of a gradient is infinite when float16 overflows and the step is skipped. `recent` are values from before
    a training was resumed: they count for the median, not for the average.
    """

    def __init__(self, window_size: int = 20, recent: Iterable[float] = ()) -> None:
        self._recent: deque[float] = deque(recent, maxlen=window_size)
        self._total = 0.0
        self._count = 0

    def update(self, value: float) -> None:
        self._recent.append(value)
        if math.isfinite(value):
            self._total += value
            self._count += 1

    @property
    def recent(self) -> list[float]:
        return list(self._recent)

    @property
    def median(self) -> float:
        return median(self._recent)

    @property
    def global_avg(self) -> float:
        return self._total / self._count if self._count else math.inf


class MetricLogger:
    """`SmoothedValue`s by name, which begin with the values in `recent`.

    As a string "name: median (average)" each, as maskrcnn-benchmark logs them.
    """

    delimiter = "  "

    def __init__(self, window_size: int = 20, recent: Mapping[str, Iterable[float]] | None = None) -> None:
        self.meters: dict[str, SmoothedValue] = {}
        self._window_size = window_size
        self._recent = dict(recent or {})

    def update(self, **values: float) -> None:
        for name, value in values.items():
            if name not in self.meters:
                self.meters[name] = SmoothedValue(self._window_size, self._recent.get(name, ()))
            self.meters[name].update(float(value))

    def recent(self) -> dict[str, list[float]]:
        """Return the values in the windows by name, for a resumed training to begin with."""
        return {name: meter.recent for name, meter in self.meters.items()}

    def medians(self) -> dict[str, float]:
        """Return the finite medians by name; JSON has no infinite numbers."""
        medians = {name: meter.median for name, meter in self.meters.items()}
        return {name: value for name, value in medians.items() if math.isfinite(value)}

    def __str__(self) -> str:
        return self.delimiter.join(
            f"{name}: {meter.median:.4f} ({meter.global_avg:.4f})" for name, meter in self.meters.items()
        )
