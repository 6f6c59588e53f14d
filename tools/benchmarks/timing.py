"""Time contenders in turns, from an idle device to an idle device."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Most calls in one measurement. Calls are repeated only if a single call is too short to be timed.
_MOST_REPEATS = 1000
# Cycles of the device's clock, longer than the host takes to queue the calls of a measurement.
_HEAD_START = 40_000_000


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, a value per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def lower(self) -> float:
        """Return the lower quartile; a quarter of the rounds were faster."""
        return float(np.quantile(self.seconds, 0.25))

    @property
    def upper(self) -> float:
        """Return the upper quartile; a quarter of the rounds were slower."""
        return float(np.quantile(self.seconds, 0.75))


def interleave(
    contenders: Mapping[str, Callable[[], Any]],
    device: torch.device,
    rounds: int,
    warmup: int,
    least_seconds: float = 0.0,
    measure: Callable[[Callable[[], Any], torch.device, int], float] | None = None,
) -> dict[str, Timing]:
    """Time contenders in turns, so that a slow phase of the machine slows all of them.

    After `warmup` calls of each contender, every round measures every contender once. Each round begins with the
    next contender.

    Args:
        contenders: calls by name.
        device: the device that runs the calls.
        rounds, warmup: at least 1 and 0.
        least_seconds: a shorter call is repeated in a measurement until the repeats take about this long.
        measure: maps (call, device, repeats) to the seconds of all repeats; None for `wall_seconds`.
    """
    measure = measure or wall_seconds
    for call in contenders.values():
        for _ in range(warmup):
            call()
    repeats = {name: _repeats(measure(call, device, 1), least_seconds) for name, call in contenders.items()}
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(measure(contenders[name], device, repeats[name]) / repeats[name])
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def wall_seconds(
    call: Callable[[], Any], device: torch.device, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the seconds of `repeats` calls, from an idle device to an idle device."""
    synchronize(device)
    start = clock()
    for _ in range(repeats):
        call()
    synchronize(device)
    return clock() - start


def cuda_seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the seconds that a CUDA device takes for `repeats` calls that the host has queued in advance.

    A call that waits for the device cannot be queued in advance, so its time includes the host's time.
    """
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    synchronize(device)
    torch.cuda._sleep(_HEAD_START)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    synchronize(device)
    return start.elapsed_time(end) / 1e3


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _repeats(seconds: float, least_seconds: float) -> int:
    return min(max(math.ceil(least_seconds / max(seconds, 1e-9)), 1), _MOST_REPEATS)
