"""Send log lines to the terminal and to a file."""

import logging
import os
import sys

_FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"


def setup_logger(name: str, save_dir: str, distributed_rank: int, filename: str = "log.txt") -> logging.Logger:
    """Send the lines of logger `name`, and of the loggers below it, to the terminal and to a file.

    Rank 0 writes INFO and above to stdout and to `save_dir/filename`; other ranks write WARNING and above to
    stderr. A second call replaces the handlers of the first.

    Args:
        name: logger name; the name of the package covers the loggers of all its modules.
        save_dir: folder of the log file, created if missing; empty: no file.
        distributed_rank: rank of this process.
        filename: name of the log file, appended to.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in [handler for handler in logger.handlers if isinstance(handler, _OURS)]:
        logger.removeHandler(handler)
        handler.close()
    if distributed_rank > 0:
        handler = _Terminal(sys.stderr)
        handler.setLevel(logging.WARNING)
        _add(logger, handler, f"[rank {distributed_rank}] {_FORMAT}")
        return logger
    _add(logger, _Terminal(sys.stdout), _FORMAT)
    if save_dir:
        os.makedirs(save_dir, exist_ok=True)
        _add(logger, _LogFile(os.path.join(save_dir, filename), encoding="utf-8"), _FORMAT)
    return logger


class _Terminal(logging.StreamHandler):
    """Terminal handler of `setup_logger`, which its next call replaces."""


class _LogFile(logging.FileHandler):
    """File handler of `setup_logger`, which its next call replaces."""


_OURS = (_Terminal, _LogFile)


def _add(logger: logging.Logger, handler: logging.Handler, line_format: str) -> None:
    handler.setFormatter(logging.Formatter(line_format))
    logger.addHandler(handler)
