"""Join the processes of a torchrun call."""

import os
import socket
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.errors import InputError, require

# Collectives outlast the training's own limit, which says more when it is passed.
_GRACE_SECONDS = 60
_CONNECT_SECONDS = 2
_PORT_KEY = "fcos_core/port"


def init_processes(config: Config, local_rank: int | None) -> None:
    """Join the other processes of a torchrun or torch.distributed.launch call, if there are any.

    Args:
        config: MODEL.DEVICE: "cuda", a GPU a process over NCCL; "cpu", or one GPU for all such as "cuda:0", gloo.
        local_rank: --local_rank of the command line; the environment's LOCAL_RANK is used without it.

    Raises:
        InputError: MODEL.DEVICE is not there, or not once for each process.
    """
    check_values(config)
    device = config.MODEL.DEVICE
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError("MODEL.DEVICE is cuda, but PyTorch finds no CUDA device; set MODEL.DEVICE cpu.")
    if device not in ("cpu", "cuda"):
        _take_named_gpu(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    timeout = timedelta(seconds=config.DISTRIBUTED.TIMEOUT + _GRACE_SECONDS)
    if device == "cuda":
        _take_gpu(int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank)
    # A GPU that is named is shared by all processes, which NCCL does not do.
    backend = "nccl" if device == "cuda" else "gloo"
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) == 0:
        dist.init_process_group(backend, timeout=timeout)
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _store_of_this_start(rank, world_size, timeout)
    dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=world_size)


def _store_of_this_start(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """A store that the main process makes anew, in which processes tell each other their addresses.

    torchrun keeps its own through all restarts (PyTorch issue 167288): there, addresses of processes that have gone
    stand beside those of the new ones.
    """
    kept, *_ = next(dist.rendezvous("env://", timeout=timeout))
    host = os.environ["MASTER_ADDR"]
    if rank == 0:
        store = dist.TCPStore(host, 0, world_size, is_master=True, timeout=timeout, wait_for_workers=False)
        kept.set(_PORT_KEY, str(store.port))
        return store
    end = time.monotonic() + timeout.total_seconds()
    while True:
        port = int(kept.get(_PORT_KEY))
        try:
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
        except OSError:
            # The port of the main process before; this start's has not come to naming its own.
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return dist.TCPStore(host, port, world_size, timeout=timeout)


def _take_named_gpu(device: str) -> None:
    count, number = torch.cuda.device_count(), device.removeprefix("cuda:")
    known = number.isdecimal() and int(number) < count
    require(known, "MODEL.DEVICE", device, f"cuda:0 to cuda:{count - 1}, the GPUs that were found")
    # What names no GPU, such as events and pinned memory, is of the current one.
    torch.cuda.set_device(int(number))


def _take_gpu(local_rank: int) -> None:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise InputError(
            f"Process {local_rank} of this machine has no GPU of its own: {count} were found; start fewer."
        )
    torch.cuda.set_device(local_rank)
