"""The processes below a command, found as the kernel lists them."""

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
    """The letter of proc(5) and the parent's number; None of a process that has gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return words[0], int(words[1])


def is_running(pid: int) -> bool:
    """False too of a process that has ended and whose parent has not asked for its status yet."""
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
    """The process of this rank that the launcher has started."""
    for pid in descendants(launcher):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if f"RANK={rank}".encode() in environment.split(b"\0"):
            return pid
    raise AssertionError(f"no worker of rank {rank}")


def kill_all(launcher: int) -> None:
    """Kill what a command has started; some of them may be leaving by themselves."""
    for pid in descendants(launcher):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
