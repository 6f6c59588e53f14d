"""What every program under tools/ starts with: command line, processes, errors for reading."""

import argparse
import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist

from fcos_core.config import Config, cfg
from fcos_core.errors import InputError, require


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser of `--config-file FILE [KEY VALUE ...]`, also as torch's launchers call programs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config-file", default="", metavar="FILE", help="a YAML of configs/")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help="set by torch.distributed.launch")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, such as MODEL.DEVICE cpu")
    return parser


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line; overrides may stand before, between and after the options."""
    return parser.parse_intermixed_args()


def make_config(arguments: argparse.Namespace) -> Config:
    """The defaults with the file and then the overrides of the command line merged in, frozen."""
    config = cfg.clone()
    if arguments.config_file:
        config.merge_from_file(arguments.config_file)
    config.merge_from_list(arguments.opts)
    config.freeze()
    return config


def run_program(main: Callable[[], None]) -> None:
    """Call `main` and exit; an `InputError` is printed as one line, without a traceback, with status 1."""
    try:
        main()
    except InputError as error:
        # Other processes may be waiting in a collective: leave at once, so that the launcher ends them.
        sys.exit(f"error: {error}")
    if dist.is_initialized():
        dist.destroy_process_group()


def init_processes(config: Config, local_rank: int | None) -> None:
    """Join the other processes of a torchrun or torch.distributed.launch call, if there are any.

    Args:
        config: MODEL.DEVICE decides between NCCL and gloo.
        local_rank: --local_rank of the command line; the environment's LOCAL_RANK is used without it.

    Raises:
        InputError: MODEL.DEVICE is not there, or not once for each process.
    """
    device = config.MODEL.DEVICE
    require(device == "cpu" or device.partition(":")[0] == "cuda", "MODEL.DEVICE", device, "cpu or cuda")
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError("MODEL.DEVICE is cuda, but PyTorch finds no CUDA device; set MODEL.DEVICE cpu.")
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    if device == "cpu":
        if config.MODEL.SYNCBN:
            raise InputError("MODEL.SYNCBN over several processes needs GPUs; train in one process, or set it False.")
        dist.init_process_group("gloo")
        return
    rank = int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank
    require(device == "cuda", "MODEL.DEVICE", device, "cuda; each process of a launcher takes a GPU of its own")
    count = torch.cuda.device_count()
    if rank >= count:
        raise InputError(f"Process {rank} of this machine has no GPU of its own: {count} were found; start fewer.")
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
