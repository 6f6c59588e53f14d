"""Published `utils.metric_logger`: meters with the published attributes."""

from collections import defaultdict, deque
from statistics import fmean, median_low
from typing import Any

from fcos_core.utils import meters


class SmoothedValue(meters.SmoothedValue):
    """`meters.SmoothedValue` with an average over the window; the median of an even number is the lower of two."""

    @property
    def median(self) -> float:
        return median_low(self._recent)

    @property
    def avg(self) -> float:
        return fmean(self._recent)

    @property
    def deque(self) -> deque[float]:
        return self._recent

    @property
    def count(self) -> int:
        return self._count

    @property
    def total(self) -> float:
        return self._total


class MetricLogger(meters.MetricLogger):
    """`meters.MetricLogger` whose meters are attributes: `logger.update(time=0.1)`, `logger.time.global_avg`."""

    def __init__(self, delimiter: str = "\t") -> None:
        super().__init__()
        self.delimiter = delimiter
        self.meters: defaultdict[str, SmoothedValue] = defaultdict(SmoothedValue)  # type: ignore[assignment]

    def update(self, **values: Any) -> None:
        """Add a value to each meter that is named: a number, or a tensor of one element."""
        for name, value in values.items():
            self.meters[name].update(float(value))

    def __getattr__(self, name: str) -> Any:
        # Reached only by names that are no ordinary attribute; `__dict__` because copying asks before __init__.
        meters_by_name = self.__dict__.get("meters", {})
        if name not in meters_by_name:
            raise AttributeError(f"There is no meter '{name}'; the meters are {', '.join(meters_by_name)}.")
        return meters_by_name[name]
