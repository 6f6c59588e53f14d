"""Start the loader's workers, take over what they read, and explain in a plain sentence what fails on the way."""

import contextlib
import os
import pickle
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, get_worker_info

from fcos_core.errors import InputError

T = TypeVar("T")

# torch learns of a worker's death by a signal, which may come this much later than the end of the worker's pipe.
_SIGNAL_SECONDS = 1
# A worker looks so often whether its parent is still there.
_PARENT_SECONDS = 1
# The pin-memory thread ends too if a worker dies while it hands a batch over.
_WORKER_DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited unexpectedly")
# How torch begins an error that the dataset itself raised in a worker: nothing is wrong with the worker.
_RAISED_BY_DATASET = re.compile(r"Caught \w+ in DataLoader worker process")
# What the kernel and torch say where a process has too many files open, or shared memory is used up.
_NO_DESCRIPTORS = re.compile("Too many open files|ancdata")
_NO_SHARED_MEMORY = re.compile("No space left on device|shared memory|Cannot allocate memory")
_SHARED_MEMORY = "/dev/shm"


class Parcel:
    """An object packed in a worker, its tensors in shared memory.

    multiprocessing would pack it in a thread of the worker that prints an error and drops the object, for which the
    training would wait in vain.
    """

    def __init__(self, content: Any) -> None:
        self._data = bytes(ForkingPickler.dumps(content))

    def unpack(self) -> Any:
        """Return the object; do so once, while the worker lives."""
        return pickle.loads(self._data)

    def pin_memory(self) -> Any:
        """Return the object in page-locked memory, or an `InputError`; torch's DataLoader calls this by its name."""
        return _returning_errors(lambda: self.unpack().pin_memory())


def pack(content: T) -> Any:
    """Return what the dataset of a `DataLoader` hands over for `content`, which `fetch` turns into `content`."""
    return content if get_worker_info() is None else _returning_errors(lambda: Parcel(content))


def start_worker(_: int) -> None:
    """Prepare a worker process.

    Reset inherited signal handlers, so that a signal does not trigger the parent's save; end with the parent; compute
    in one thread.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (opencv := sys.modules.get("cv2")) is not None:
        opencv.setNumThreads(1)  # as torch does for its own threads: the other cores have their own workers
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    # torch's own end of a worker first hands over what is read, and waits without end if nobody takes it.
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def fetch(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield what the dataset of `loader` has packed.

    Raises:
        InputError: a worker has died, or shared memory or file descriptors are used up.
    """
    if not loader.num_workers:
        yield from loader
        return
    with _explaining():
        items = iter(loader)
    while True:
        with _explaining():
            item = next(items, None)
            if isinstance(item, Parcel):
                item = item.unpack()
        if item is None:
            return
        if isinstance(item, InputError):
            raise item
        yield item


@contextlib.contextmanager
def explain_dead_workers() -> Iterator[None]:
    """Turn torch's error about a dead worker into an `InputError`.

    A worker of a `BatchLoader` is missed while the next batch is fetched, and nowhere else. Use this around all code
    that runs while a user's own `DataLoader` is iterated over, because torch raises the error from a signal handler,
    that is, anywhere in the main thread.

    Raises:
        InputError: a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if not _WORKER_DIED.search(str(error)):
            raise
        raise _worker_died(error) from error


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Surround an access to a loader with workers; raise InputError for what does not come from the dataset."""
    with explain_dead_workers(), _noticing_dead_workers():
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            if _RAISED_BY_DATASET.match(str(error)):
                raise
            _raise_if_exhausted(error)
            if isinstance(error, RuntimeError):
                raise
            # The worker's end of a pipe is closed. Wait, because torch raises a better error from its signal handler.
            time.sleep(_SIGNAL_SECONDS)
            raise _worker_died(error) from error


@contextlib.contextmanager
def _noticing_dead_workers() -> Iterator[None]:
    """Let a worker's death raise an error in the block alone.

    torch's own handler, which it sets with its first loader, raises it in whatever the main thread does: a checkpoint
    that was being written would fail.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGCHLD, lambda *_: torch._C._error_if_any_worker_fails())
    try:
        torch._C._error_if_any_worker_fails()  # one that died since the last batch
        yield
    finally:
        signal.signal(signal.SIGCHLD, former or signal.SIG_DFL)


def _returning_errors(function: Any) -> Any:
    """Return what `function` returns, or an `InputError`, as torch buries the sentence of one that is raised."""
    try:
        return function()
    except (RuntimeError, OSError) as error:
        try:
            _raise_if_exhausted(error)
        except InputError as explained:
            return explained
        raise


def _raise_if_exhausted(error: Exception) -> None:
    """Raise InputError if `error` says that file descriptors or shared memory are used up."""
    reason = str(error).partition("\n")[0].rstrip(" .")
    if _NO_DESCRIPTORS.search(str(error)):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise InputError(
            f"The data loader has too many files open: {reason}. The limit is {limit} (`ulimit -n`): raise it, for "
            f"example with `ulimit -n {max(4 * limit, 4096)}`, or lower DATALOADER.NUM_WORKERS."
        ) from error
    if _NO_SHARED_MEMORY.search(str(error)):
        mebibytes = shutil.disk_usage(_SHARED_MEMORY).total / 2**20
        raise InputError(
            f"The workers of the data loader have no shared memory for a batch: {reason}. {_SHARED_MEMORY} has "
            f"{mebibytes:.0f} MiB: give the machine or container more (docker's option --shm-size), or lower "
            "DATALOADER.NUM_WORKERS or the images per batch; NUM_WORKERS 0 needs no shared memory."
        ) from error


def _worker_died(error: Exception) -> InputError:
    reason = str(error).partition("\n")[0].rstrip(" .")
    return InputError(
        f"A worker of the data loader has died: {reason}. If nobody killed it, the machine ran out of "
        "memory, which `dmesg` shows: lower DATALOADER.NUM_WORKERS. After a bus error, give the machine or container "
        f"more shared memory ({_SHARED_MEMORY})."
    )
