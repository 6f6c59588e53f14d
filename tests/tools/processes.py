"""Find the processes below a command in the kernel's list."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def state_and_parent(pid: int) -> tuple[str, int] | None:
    """Return the state's letter (proc(5)) and the parent's number; None if the process has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return words[0], int(words[1])


def is_running(pid: int) -> bool:
    """Return True if the process runs; a zombie, whose parent has not read its exit status, does not run."""
    found = state_and_parent(pid)
    return found is not None and found[0] != "Z"


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        child = int(path.name)
        state = state_and_parent(child)
        if state is not None and state[1] == pid:
            found += [child, *descendants(child)]
    return found


def worker(launcher: int, rank: int) -> int:
    """Return the process of this rank that the launcher has started."""
    for pid in descendants(launcher):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if f"RANK={rank}".encode() in environment.split(b"\0"):
            return pid
    raise AssertionError(f"no worker of rank {rank}")


def kill_all(launcher: int) -> None:
    """Kill the processes that a command has started; some may exit by themselves meanwhile."""
    for pid in descendants(launcher):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
