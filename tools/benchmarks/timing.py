"""Timing that waits for the device and lets contenders take turns."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Calls of one measurement share a wait for the device only where a call is too short to be timed alone.
_MOST_REPEATS = 1000
# Longer than the host takes to queue the calls of a measurement on the device, in cycles of its clock.
_HEAD_START = 40_000_000


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, once for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def lower(self) -> float:
        """The quartile that a quarter of the rounds were faster than."""
        return float(np.quantile(self.seconds, 0.25))

    @property
    def upper(self) -> float:
        """The quartile that a quarter of the rounds were slower than."""
        return float(np.quantile(self.seconds, 0.75))


def interleave(
    contenders: Mapping[str, Callable[[], Any]],
    device: torch.device,
    rounds: int,
    warmup: int,
    least_seconds: float = 0.0,
    measure: Callable[[Callable[[], Any], torch.device, int], float] | None = None,
) -> dict[str, Timing]:
    """Time contenders that take turns, so that whatever slows the machine down slows all of them.

    After `warmup` calls each, every round runs every contender once, beginning with the next one each time.

    Args:
        contenders: by name.
        device: that their work is queued on.
        rounds, warmup: at least 1 and 0.
        least_seconds: shorter calls are repeated within a measurement until they take about as long together.
        measure: (call, device, repeats) to seconds of all the repeats; `wall_seconds` without it.
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
    """Seconds of `repeats` calls, from an idle device to an idle device."""
    synchronize(device)
    start = clock()
    for _ in range(repeats):
        call()
    synchronize(device)
    return clock() - start


def cuda_seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds that a CUDA device takes for `repeats` calls which the host has queued in advance.

    A call that waits for the device loses the advance: its time has the host's in it, as it has in use.
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
    """Wait until everything queued on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _repeats(seconds: float, least_seconds: float) -> int:
    return min(max(math.ceil(least_seconds / max(seconds, 1e-9)), 1), _MOST_REPEATS)
