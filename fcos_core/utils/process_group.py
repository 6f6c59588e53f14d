"""Join the processes of a torchrun call into a process group."""

import os
import socket
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.errors import InputError, require

# The timeout of collectives is longer than the watchdog's, whose message says more.
_GRACE_SECONDS = 60
_CONNECT_SECONDS = 2
_RETRY_SECONDS = 0.1
_PORT_KEY = "fcos_core/port"
_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def init_processes(config: Config, local_rank: int | None) -> None:
    """Join the other processes of a torchrun or torch.distributed.launch call, if there are any.

    MODEL.DEVICE "cuda" gives every process its own GPU and connects them by NCCL; "cpu", or one GPU for all processes
    such as "cuda:0", connects them by gloo. `local_rank` is --local_rank of the command line; None: LOCAL_RANK of the
    environment. Raise InputError if the machine lacks the device, or has fewer GPUs than processes, or if the variables
    of the launcher are incomplete or impossible.
    """
    check_values(config)
    world_size = _read_environment()
    device = config.MODEL.DEVICE
    check_device(device)
    if device not in ("cpu", "cuda"):
        _select_named_gpu(device)
    if world_size == 1:
        return
    timeout = timedelta(seconds=config.DISTRIBUTED.TIMEOUT + _GRACE_SECONDS)
    if device == "cuda":
        _select_own_gpu(int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank)
    # All processes share a GPU that is named, which NCCL does not support.
    backend = "nccl" if device == "cuda" else "gloo"
    rank = int(os.environ["RANK"])
    try:
        _join(backend, rank, world_size, timeout)
    except dist.DistError as error:
        raise InputError(
            f"Process {rank} of {world_size} cannot join the others at {os.environ['MASTER_ADDR']}, port "
            f"{os.environ['MASTER_PORT']}: {str(error).partition(chr(10))[0]} Check that all of them run, that this "
            "host reaches that address, and that nothing else uses the port."
        ) from error


def check_device(device: str) -> None:
    """Raise InputError if `device` is a GPU and PyTorch finds none."""
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"MODEL.DEVICE is {device}, but PyTorch finds no CUDA device; set MODEL.DEVICE cpu.")


def _read_environment() -> int:
    """Return WORLD_SIZE, 1 if no launcher has set it; raise InputError unless its companions are set and fit."""
    if not os.environ.keys() & {"WORLD_SIZE", "RANK"}:
        return 1
    world_size = _read_number("WORLD_SIZE", 1, sys.maxsize)
    if world_size == 1 and "RANK" not in os.environ:
        return 1
    _read_number("RANK", 0, world_size - 1)
    if world_size > 1:
        _read_number("MASTER_PORT", 1, 65535)
        _require_variable(bool(os.environ.get("MASTER_ADDR")), "MASTER_ADDR", "the main process's host")
        if "LOCAL_RANK" in os.environ:
            _read_number("LOCAL_RANK", 0, world_size - 1)
    return world_size


def _read_number(name: str, least: int, most: int) -> int:
    text = os.environ.get(name, "")
    valid = text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most
    _require_variable(valid, name, f"{least} or more" if most == sys.maxsize else f"a number from {least} to {most}")
    return int(text)


def _require_variable(valid: bool, name: str, wanted: str) -> None:
    if valid:
        return
    found = f"is {os.environ[name]!r}" if name in os.environ else "is not set"
    given = ", ".join(f"{key}={os.environ[key]}" for key in _LAUNCHER_VARIABLES if key in os.environ and key != name)
    raise InputError(
        f"The environment variable {name} {found} (with {given or 'no other of its kind'}); it should be {wanted}. "
        f"Start several processes with torchrun, which sets {', '.join(_LAUNCHER_VARIABLES)} (under SLURM: one "
        "torchrun a host), or unset them for a single process."
    )


def _join(backend: str, rank: int, world_size: int, timeout: timedelta) -> None:
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) == 0:
        dist.init_process_group(backend, timeout=timeout)
        return
    store = _fresh_store(rank, world_size, timeout)
    dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=world_size)


def _fresh_store(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Create a new store in the main process, where the processes exchange their addresses.

    torchrun keeps its own store through all restarts (PyTorch issue 167288): it still holds addresses of processes
    that exited before the restart.
    """
    launcher_store, *_ = next(dist.rendezvous("env://", timeout=timeout))
    host = os.environ["MASTER_ADDR"]
    if rank == 0:
        store = dist.TCPStore(host, 0, world_size, is_master=True, timeout=timeout, wait_for_workers=False)
        launcher_store.set(_PORT_KEY, str(store.port))
        return store
    end = time.monotonic() + timeout.total_seconds()
    while True:
        port = int(launcher_store.get(_PORT_KEY))
        try:
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
        except OSError:
            # The port is from before the restart: the new main process has not published its own yet.
            if time.monotonic() > end:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return dist.TCPStore(host, port, world_size, timeout=timeout)


def _select_named_gpu(device: str) -> None:
    count, number = torch.cuda.device_count(), device.removeprefix("cuda:")
    known = number.isdecimal() and int(number) < count
    require(known, "MODEL.DEVICE", device, f"cuda:0 to cuda:{count - 1}, the GPUs that were found")
    # Events and pinned memory belong to the current GPU.
    torch.cuda.set_device(int(number))


def _select_own_gpu(local_rank: int) -> None:
    count = torch.cuda.device_count()
    if not 0 <= local_rank < count:
        raise InputError(
            f"There is no GPU for process {local_rank} of this machine: {count} were found; start fewer processes."
        )
    torch.cuda.set_device(local_rank)
