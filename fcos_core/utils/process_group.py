"""Join the processes of a torchrun call into a process group."""

import os
import socket
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


def init_processes(config: Config, local_rank: int | None) -> None:
    """Join the other processes of a torchrun or torch.distributed.launch call, if there are any.

    MODEL.DEVICE "cuda" gives every process its own GPU and connects them by NCCL; "cpu", or one GPU for all processes
    such as "cuda:0", connects them by gloo. `local_rank` is --local_rank of the command line; None: LOCAL_RANK of the
    environment. Raise InputError if the machine lacks the device, or has fewer GPUs than processes.
    """
    check_values(config)
    device = config.MODEL.DEVICE
    check_device(device)
    if device not in ("cpu", "cuda"):
        _select_named_gpu(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    timeout = timedelta(seconds=config.DISTRIBUTED.TIMEOUT + _GRACE_SECONDS)
    if device == "cuda":
        _select_own_gpu(int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank)
    # All processes share a GPU that is named, which NCCL does not support.
    backend = "nccl" if device == "cuda" else "gloo"
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) == 0:
        dist.init_process_group(backend, timeout=timeout)
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _fresh_store(rank, world_size, timeout)
    dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=world_size)


def check_device(device: str) -> None:
    """Raise InputError if `device` is a GPU and PyTorch finds none."""
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"MODEL.DEVICE is {device}, but PyTorch finds no CUDA device; set MODEL.DEVICE cpu.")


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
    if local_rank >= count:
        raise InputError(
            f"There is no GPU for process {local_rank} of this machine: {count} were found; start fewer processes."
        )
    torch.cuda.set_device(local_rank)
