"""Keep two trainings from writing to one folder."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator

from fcos_core.errors import InputError
from fcos_core.utils.files import explaining_failure, remove_leftovers
from fcos_core.utils.text import printable

LOCK_FILE = ".training.lock"
# A training whose launcher was killed needs this long to save and leave; the restarted one waits for it.
_PATIENCE_SECONDS = 10.0
_RETRY_SECONDS = 0.2

logger = logging.getLogger(__name__)


class FolderLock:
    """Lock on a folder, which the kernel takes from a process that ends in whatever way.

    It is a record lock of the process (fcntl): workers that are forked do not inherit it, so none can keep it alive,
    and on NFS it holds across hosts. On a file system without locks a warning is all there is.
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, LOCK_FILE)
        self._folder = folder
        self._file = self._lock()
        remove_leftovers(folder)

    def check(self) -> None:
        """Raise InputError if the folder was deleted, moved or replaced since it was locked."""
        if not self._is_intact():
            raise InputError(
                f"OUTPUT_DIR '{os.path.abspath(self._folder)}' was deleted, moved or replaced during the training: its "
                "files are no longer where the training writes. Put the folder back, or start again."
            )

    def renew(self) -> None:
        """Lock the folder that is now at this path, if it is another one; raise InputError if a training has it."""
        if not self._is_intact():
            former, self._file = self._file, self._lock()
            os.close(former)

    def release(self) -> None:
        os.close(self._file)

    def _is_intact(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _lock(self) -> int:
        os.makedirs(self._folder, exist_ok=True)
        # The file stays when the lock is released: were it removed, two processes could lock two files of this name.
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._wait(file)
        except BaseException:
            os.close(file)
            raise
        return file

    def _wait(self, file: int) -> None:
        if not _try_to_lock(file, self._path):
            owner = printable(os.pread(file, 200, 0).decode(errors="replace").strip())
            holder = f"another training ({owner})" if owner else "another training"
            # Before a training logs, Python itself writes a warning to stderr.
            logger.warning("Waiting for %s to leave '%s'.", holder, printable(self._folder))
            end = time.monotonic() + _PATIENCE_SECONDS
            while not _try_to_lock(file, self._path):
                if time.monotonic() > end:
                    raise InputError(
                        f"OUTPUT_DIR '{os.path.abspath(self._folder)}' is in use by {holder}: wait for its end or stop "
                        "it, or set OUTPUT_DIR to another folder."
                    )
                time.sleep(_RETRY_SECONDS)
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on host {socket.gethostname()}\n".encode(), 0)


_held: dict[str, FolderLock] = {}


@contextlib.contextmanager
def locked(folder: str) -> Iterator[FolderLock]:
    """Hold the lock of `folder`, which is created if missing; a block inside such a block uses the same lock.

    Raises:
        InputError: another process holds it, or the folder cannot be written to.
    """
    path = os.path.realpath(folder)
    if path in _held:
        yield _held[path]
        return
    with explaining_failure(folder):
        _held[path] = FolderLock(folder)
    try:
        yield _held[path]
    finally:
        _held.pop(path).release()


def _try_to_lock(file: int, path: str) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        logger.warning(
            "'%s' cannot be locked (%s): make sure that no second training writes there.", path, error.strerror
        )
    return True
