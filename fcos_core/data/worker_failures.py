"""Start the loader's workers, and explain in a plain sentence when one of them dies."""

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from typing import TypeVar

from torch.utils.data import DataLoader

from fcos_core.errors import InputError

T = TypeVar("T")

# torch learns of a worker's death by a signal, which may come this much later than the end of the worker's pipe.
_SIGNAL_SECONDS = 1
# The pin-memory thread ends too if a worker dies while it hands a batch over.
_WORKER_DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited unexpectedly")


def start_worker(_: int) -> None:
    """Reset inherited signal handlers so that a signal to a worker does not trigger the parent's save."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def fetch(loader: DataLoader[T]) -> Iterator[T]:
    """Yield the batches of `loader`.

    Raises:
        RuntimeError: torch's own error, which names the worker that died; see `explain_dead_workers`.
        InputError: a worker died and torch did not name it in time.
    """
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, EOFError) as error:
            if not loader.num_workers:
                raise
            # The worker's end of a pipe is closed. Wait, because torch raises a better error from its signal handler.
            time.sleep(_SIGNAL_SECONDS)
            raise _worker_died(str(error)) from error
        yield batch


@contextlib.contextmanager
def explain_dead_workers() -> Iterator[None]:
    """Turn torch's error about a dead worker into an `InputError`.

    Use it around all code that runs while a `BatchLoader` is iterated over, because torch raises the error from a
    signal handler, that is, anywhere in the main thread.

    Raises:
        InputError: a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if not _WORKER_DIED.search(str(error)):
            raise
        raise _worker_died(str(error).partition("\n")[0]) from error


def _worker_died(reason: str) -> InputError:
    return InputError(
        f"A worker of the data loader has died: {reason.rstrip(' .')}. If nobody killed it, the machine ran out of "
        "memory, which `dmesg` shows: lower DATALOADER.NUM_WORKERS. After a bus error, give the machine or container "
        "more shared memory (/dev/shm)."
    )
