"""Send log lines to the terminal and to a file."""

import logging
import os
import sys

_FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"
# Name of the handlers that the next call of `setup_logger` replaces.
_HANDLER = "fcos_core.utils.logger"
# Package name of HRNet-FCOS and maskrcnn-benchmark.
_PUBLISHED = "maskrcnn_benchmark"


def setup_logger(name: str, save_dir: str, distributed_rank: int, filename: str = "log.txt") -> logging.Logger:
    """Send the lines of logger `name`, and of the loggers below it, to the terminal and to a file.

    Rank 0 writes INFO and above to stdout and appends them to `save_dir/filename`, in a folder that is created if
    missing; an empty `save_dir` means no file. Other ranks write WARNING and above to stderr. A second call replaces
    the handlers of the first.
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
    if distributed_rank > 0:
        handler = logging.StreamHandler(sys.stderr)
        handler.setLevel(logging.WARNING)
        _add(logger, handler, f"[rank {distributed_rank}] {_FORMAT}")
        return logger
    _add(logger, logging.StreamHandler(sys.stdout), _FORMAT)
    if save_dir:
        os.makedirs(save_dir, exist_ok=True)
        _add(logger, logging.FileHandler(os.path.join(save_dir, filename), encoding="utf-8"), _FORMAT)
    return logger


def _add(logger: logging.Logger, handler: logging.Handler, line_format: str) -> None:
    handler.name = _HANDLER
    handler.setFormatter(logging.Formatter(line_format))
    logger.addHandler(handler)
