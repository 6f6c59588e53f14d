"""How much memory something takes: the device's on CUDA, the process's on a CPU."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.timing import synchronize


class Memory(NamedTuple):
    """Bytes beyond what was in use before.

    Attributes:
        added: still in use at the end.
        peak: the most that was in use at once.
    """

    added: int
    peak: int


def label(device: torch.device) -> str:
    """What the numbers of `measure_memory` are of."""
    return "GB allocated" if device.type == "cuda" else "GB resident"


def measure_memory(make: Callable[[], Any], device: torch.device) -> Memory:
    """Memory that calling `make` takes, with two calls of what it returns where that is callable.

    What was made, such as weights, counts. On a CPU the peak is that of the second call, since the first may compile
    in this process; on CUDA it is that of everything, since a CUDA graph takes its memory when it is captured.
    """
    before = _in_use(device)
    made = make()
    if callable(made):
        made()
        if device.type == "cpu":
            _in_use(device)  # forgets the peak, and gives back what the first call has freed
        made()
    synchronize(device)
    peak = _peak(device)
    return Memory(_in_use(device, forget=False) - before, peak - before)


def _in_use(device: torch.device, forget: bool = True) -> int:
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        used = torch.cuda.memory_allocated(device)
    else:
        # Freed blocks that the C library holds back would hide what the next contender takes.
        ctypes.CDLL(None).malloc_trim(0)
        used = _status("VmRSS")
    if forget:
        _forget_peak(device)
    return used


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets VmHWM


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(key: str) -> int:
    """Bytes that Linux gives for `key` in /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def private_bytes() -> int:
    """Bytes of this process's memory that no other process shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
