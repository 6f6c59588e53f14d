"""Find files, and write them: after a crash a file has its old content or its new content, never a part."""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fcos_core.errors import InputError
from fcos_core.utils.child_exits import ignoring_child_exits

# Names of temporary files: those of `replacing`, and those that earlier versions gave to a training's files.
_TEMPORARY = re.compile(r"(.+\.[0-9a-f]{16}|model_\w+\.pth|metrics\.jsonl|last_checkpoint)\.tmp")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends.

    The content is written to a temporary file beside `path`, flushed to the disk, and renamed to `path`. Each call has
    a temporary file of its own, so that two processes that write `path` both write a whole file. If the block raises,
    the file at `path` is unchanged and the temporary file is removed. A worker that dies does not interrupt the block.
    """
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    with ignoring_child_exits():
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            raise
        _sync_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def explaining_failure(path: str | os.PathLike[str], key: str = "OUTPUT_DIR") -> Iterator[None]:
    """Turn an OSError of the block, which writes `path` or files in it, into an `InputError` that names the file.

    The message advises to set `key` to another folder.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"'{error.filename or os.fspath(path)}' cannot be written ({error.strerror}): free disk space, make it "
            f"writable, or set {key} to another folder."
        ) from error


def files_below(folder: str | os.PathLike[str], without: str = "") -> Iterator[Path]:
    """Yield every file in `folder` and the folders in it, linked ones too, by name.

    Hidden files and folders are left out, and the folder `without`, a path without links.
    """
    seen = {without}
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen:  # also by a link that leads back
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def remove_leftovers(folder: str) -> None:
    """Remove the temporary files that killed runs have left in `folder`.

    Call it while no other process writes there.
    """
    for name in filter(_TEMPORARY.fullmatch, os.listdir(folder)):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


def check_writable(folder: str, key: str, *names: str) -> None:
    """Create `folder`, and check that it and the existing files `names` in it can be written to.

    Found out here, a wrong permission costs nothing; found out when results are written, it costs the run.

    Args:
        folder: a folder.
        key: what the message calls the folder, such as "OUTPUT_DIR".
        names: files in the folder that are opened for writing in place.

    Raises:
        InputError: one of them cannot be written to.
    """
    path = folder
    try:
        os.path.abspath(folder).encode()  # TensorBoard and the reader of checkpoints take UTF-8 alone
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in names:
            path = os.path.join(folder, name)
            if os.path.lexists(path):
                # A pipe without a reader is refused here, where a plain opening would wait for ever.
                os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))
    # A ValueError is about a name with a null byte or with bytes that are not UTF-8.
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        reason = "its name is not UTF-8" if isinstance(error, UnicodeEncodeError) else reason
        shown = f"{key} '{os.path.abspath(folder)}'" if path == folder else f"'{path}' in {key}"
        advice = "name another folder, or make it writable"
        raise InputError(f"{shown} cannot be written to ({reason}): {advice}.") from error


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
