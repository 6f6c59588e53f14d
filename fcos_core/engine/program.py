"""Command line, set-up and error messages of the commands."""

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from fcos_core.config import Config, cfg
from fcos_core.engine.from_dataset import complete_config
from fcos_core.errors import InputError, LostProcessError
from fcos_core.utils import comm
from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.collect_env import collect_env_info
from fcos_core.utils.files import check_writable
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.text import Block, escape_unencodable, printable

# Time for the launcher to notice the process that failed first, to report it and to end the others.
_LAUNCHER_SECONDS = 10

logger = logging.getLogger(__name__)


def config_parser(description: str, example: str = "") -> ArgumentParser:
    """Make a parser of `--config-file FILE [KEY VALUE ...]` that accepts the options of torch's launchers.

    `example` shows the words after the program's name.
    """
    parser = ArgumentParser(description=description, epilog=example and f"example:\n  %(prog)s {example}")
    parser.add_argument("--config-file", default="", metavar="FILE", help="a YAML file of configs/")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help="set by torch.distributed.launch")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, such as MODEL.DEVICE cpu")
    return parser


def parse_arguments(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `words`, None: the command line; overrides may stand before, between and after the options."""
    return parser.parse_intermixed_args(words)


def make_config(arguments: argparse.Namespace, is_train: bool | None = False) -> Config:
    """Merge the file, then the overrides of the command line, into the defaults; return the frozen config.

    Numbers that are left to the dataset are filled in by `complete_config`, for a training or a test; with `is_train`
    None they stay 0, for a program that has no use for them.
    """
    config = cfg.clone()
    if arguments.config_file:
        config.merge_from_file(arguments.config_file)
    config.merge_from_list(arguments.opts)
    if is_train is not None:
        complete_config(config, is_train)
    config.freeze()
    return config


def setup_run(cfg: Config) -> None:
    """Create OUTPUT_DIR, start logging there, and log the environment and the config.

    Raise InputError if OUTPUT_DIR or log.txt in it cannot be written to.
    """
    check_writable(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    setup_logger("fcos_core", cfg.OUTPUT_DIR, comm.get_rank())
    if cfg.MODEL.DEVICE == "cpu" and not torch.cuda.is_available():
        logger.info("There is no CUDA device: running on the CPU.")
    logger.info("Using %d process%s", comm.get_world_size(), "es" if comm.get_world_size() > 1 else "")
    logger.info("Environment\n%s", Block(collect_env_info()))
    logger.info("Running with config:\n%s", Block("\n".join(_config_lines(cfg))))
    for note in cfg.notes:
        logger.info("%s", note)


@contextlib.contextmanager
def naming_written(folder: str | Path, *patterns: str) -> Iterator[None]:
    """Print "Wrote PATH" for each file in `folder` that fits a pattern and that the block has made or changed."""
    before = _times(folder, patterns)
    yield
    for path, time_ns in _times(folder, patterns).items():
        if comm.is_main_process() and before.get(path) != time_ns:
            print(f"Wrote {printable(path)}", flush=True)


def _times(folder: str | Path, patterns: Sequence[str]) -> dict[Path, int]:
    paths = [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def run_program(main: Callable[[], None]) -> None:
    """Call `main` and exit; print an `InputError` as one line without a traceback, with exit status 1.

    Ctrl-C gives the exit status 130, as shells have it.
    """

    def work() -> None:
        try:
            main()
        except LostProcessError as error:
            _print_error(error)
            time.sleep(_LAUNCHER_SECONDS)
            comm.exit_now(1)

    for stream in (sys.stdout, sys.stderr):
        escape_unencodable(stream)
    try:
        # torchrun reports the first error that `record` writes down. LostProcessError never reaches `record`, as
        # another process failed before.
        record(work)()
    except InputError as error:
        _print_error(error)
        # Other processes may wait in a collective: exit at once, so that the launcher ends them.
        if dist.is_initialized():
            comm.exit_now(1)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    if dist.is_initialized():
        comm.synchronize()
        comm.exit_now(0)


def _print_error(error: Exception) -> None:
    print(f"error: {printable(error)}", file=sys.stderr, flush=True)


def _config_lines(node: Config, indent: str = "") -> Iterator[str]:
    """Yield a line per key, as yacs prints a config; names and values of the user stay within their lines."""
    for name, value in sorted(node.items()):
        if isinstance(value, Config):
            yield f"{indent}{printable(name)}:"
            yield from _config_lines(value, indent + "  ")
        else:
            yield f"{indent}{printable(name)}: {printable(value)}"
