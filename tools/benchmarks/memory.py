"""Measure memory: of the device on CUDA, of the process on a CPU."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.timing import synchronize


class Memory(NamedTuple):
    """Memory in bytes beyond the memory in use before the measurement.

    Attributes:
        added: bytes still in use at the end.
        peak: most bytes in use at once.
    """

    added: int
    peak: int


def label(device: torch.device) -> str:
    """Return the name of the memory that `measure_memory` measures on `device`."""
    return "GB allocated" if device.type == "cuda" else "GB resident"


def measure_memory(make: Callable[[], Any], device: torch.device) -> Memory:
    """Measure the memory of a call of `make`; if its result is callable, also of two calls of the result.

    The result itself, such as weights, counts. On a CPU the peak is the peak of the second call, because the first
    call may compile in this process. On CUDA the peak is over everything, because a CUDA graph takes its memory when
    it is captured.
    """
    before = _in_use(device)
    made = make()
    if callable(made):
        made()
        if device.type == "cpu":
            _in_use(device)  # resets the peak and returns the memory that the first call freed
        made()
    synchronize(device)
    peak = _peak(device)
    return Memory(_in_use(device, reset_peak=False) - before, peak - before)


def _in_use(device: torch.device, reset_peak: bool = True) -> int:
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        used = torch.cuda.memory_allocated(device)
    else:
        # Return freed blocks to the system, or the next contender would take them without growth of the process.
        ctypes.CDLL(None).malloc_trim(0)
        used = _status("VmRSS")
    if reset_peak:
        _reset_peak(device)
    return used


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(key: str) -> int:
    """Return the bytes that Linux reports for `key` in /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def private_bytes() -> int:
    """Return the bytes of this process's memory that no other process shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
