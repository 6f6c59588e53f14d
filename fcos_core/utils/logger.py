"""Send log lines to the terminal and to a file."""

import contextlib
import copy
import logging
import logging.handlers
import os
import sys
from typing import Any

from fcos_core.utils.files import explaining_failure
from fcos_core.utils.text import Block, escape_unencodable, printable

_FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"
# Name of the handlers that the next call of `setup_logger` replaces.
_HANDLER = "fcos_core.utils.logger"
# Package name of HRNet-FCOS and maskrcnn-benchmark.
_PUBLISHED = "maskrcnn_benchmark"


def setup_logger(name: str, save_dir: str, distributed_rank: int, filename: str = "log.txt") -> logging.Logger:
    """Send the lines of logger `name`, and of the loggers below it, to the terminal and to a file.

    Rank 0 writes INFO and above to stdout and appends them to `save_dir/filename`, in a folder that is created if
    missing; an empty `save_dir` means no file. Other ranks write WARNING and above to stderr. A second call replaces
    the handlers of the first. What could command a terminal is escaped, see `printable`: in the arguments of a message
    line breaks too, except those of a `Block`.

    Raises:
        InputError: the file cannot be written.
    """
    if name == _PUBLISHED:
        # Published scripts set up this name, and expect the lines of the training loop and of the test there.
        published = logging.getLogger(name)
        published.parent = setup_logger("fcos_core", save_dir, distributed_rank, filename)
        published.setLevel(logging.INFO)
        return published
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in [handler for handler in logger.handlers if handler.name == _HANDLER]:
        logger.removeHandler(handler)
        handler.close()
    for stream in (sys.stdout, sys.stderr):
        escape_unencodable(stream)
    if distributed_rank > 0:
        handler = _Handler(sys.stderr)
        handler.setLevel(logging.WARNING)
        _add(logger, handler, f"[rank {distributed_rank}] {_FORMAT}")
        return logger
    _add(logger, _Handler(sys.stdout), _FORMAT)
    if save_dir:
        _add(logger, _open_log_file(os.path.join(save_dir, filename)), _FORMAT)
    return logger


class _PrintableFormatter(logging.Formatter):
    """Formatter of records whose text may come from a user's files."""

    def format(self, record: logging.LogRecord) -> str:
        safe = copy.copy(record)
        if isinstance(record.args, tuple):
            safe.args = tuple(map(_printable_text, record.args))
        return printable(Block(super().format(safe)))


class _Handler(logging.StreamHandler):
    """Handler whose first error is one line on stderr, where that can be written; the program goes on without the log.

    What matters more, the checkpoints and metrics.jsonl of a training, raises an error of its own.
    """

    _reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._reported:
            self._reported = True
            reason = printable(sys.exc_info()[1])
            with contextlib.suppress(OSError):
                print(f"warning: the log cannot be written any more: {reason}", file=sys.stderr, flush=True)


class _LogFile(_Handler, logging.handlers.WatchedFileHandler):
    """Log file that is opened again if it was moved or deleted."""

    def emit(self, record: logging.LogRecord) -> None:
        # Opening the file again, unlike writing to it, raises out of `emit`.
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


def _open_log_file(path: str) -> logging.Handler:
    with explaining_failure(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _LogFile(path, encoding="utf-8", errors="backslashreplace")


def _printable_text(value: Any) -> Any:
    # Numbers stay for %d; lists and the like escape what they hold themselves.
    return printable(value) if isinstance(value, (str, os.PathLike, BaseException)) else value


def _add(logger: logging.Logger, handler: logging.Handler, line_format: str) -> None:
    handler.name = _HANDLER
    handler.setFormatter(_PrintableFormatter(line_format))
    logger.addHandler(handler)
