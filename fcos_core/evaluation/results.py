"""The result of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Metrics = dict[str, dict[str, float]]


class Results(Metrics):
    """Metrics, {"bbox": {metric: value}, "AP per class": {class name: AP}}.

    Published scripts take a result apart as a pair, `results, detections = inference(...)`, and read
    `results.results["bbox"]["AP"]` and `detections["bbox"]`. So iterating, `result[0]` and `result[1]` give the parts
    of that pair; everything else is as in a dict.

    Args:
        metrics: the metrics.
        detections: makes the list of detections in COCO's result format.
    """

    def __init__(self, metrics: Metrics, detections: Callable[[], list[Any]]) -> None:
        super().__init__(metrics)
        self._detections = detections

    @property
    def results(self) -> Results:
        return self

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int):
            return tuple(self)[key]
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        yield self
        yield {"bbox": self._detections()}
