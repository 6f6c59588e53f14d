"""Communication between the processes of a run; every function also works in a single process."""

import atexit
import contextlib
import functools
import logging
import multiprocessing
import os
import sys
from typing import Any, NoReturn

import torch
import torch.distributed as dist


def get_world_size() -> int:
    """Return the number of processes; 1 if torch.distributed is not initialized."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def get_rank() -> int:
    """Return the rank of this process; 0 if torch.distributed is not initialized."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main_process() -> bool:
    """Return True in the process that logs and writes files, rank 0."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has called this function."""
    if get_world_size() > 1:
        nccl = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if nccl else None)


@torch.no_grad()
def reduce_dict(values: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Average scalar tensors with the same names in every process, for logging; or add them, without `average`.

    Return name to scalar tensor without gradient: the results on rank 0, values without meaning on other ranks.
    """
    if get_world_size() == 1 or not values:
        return {name: value.detach() for name, value in values.items()}
    names = sorted(values)
    stacked = torch.stack([values[name].detach() for name in names])
    dist.reduce(stacked, dst=0)
    if average and is_main_process():
        stacked /= get_world_size()
    return dict(zip(names, stacked.unbind(), strict=True))


@torch.no_grad()
def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over all processes into a new tensor of its shape and dtype, without gradient."""
    total = tensor.detach().clone()
    if get_world_size() > 1:
        dist.all_reduce(total)
    return total


@torch.no_grad()
def gather_tensors(tensor: torch.Tensor) -> torch.Tensor | None:
    """Concatenate the CPU tensors (n, ...) of all processes on rank 0, in order of rank; return None on other ranks.

    n may differ between processes; an empty tensor may also differ in other dimensions and in dtype. Rank 0 receives
    every part directly into the result, so it needs no further memory.
    """
    if get_world_size() == 1:
        return tensor
    layouts = all_gather_objects((tuple(tensor.shape), tensor.dtype))
    group = _cpu_group(dist.group.WORLD)
    if not is_main_process():
        if len(tensor):
            dist.send(tensor.contiguous(), dst=0, group=group)
        return None
    lengths = [shape[0] for shape, _ in layouts]
    (_, *others), dtype = next((layout for layout in layouts if layout[0][0]), layouts[0])
    result = torch.empty(sum(lengths), *others, dtype=dtype)
    for rank, part in enumerate(result.split(lengths)):
        if len(part) and rank == 0:
            part.copy_(tensor)
        elif len(part):
            dist.recv(part, src=rank, group=group)
    return result


def broadcast_object(value: Any) -> Any:
    """Return rank 0's `value` in every process; it is pickled and sent through CPU memory."""
    if get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_cpu_group(dist.group.WORLD))
    return values[0]


def all_gather_objects(value: Any) -> list[Any]:
    """Return the `value` of every process, in order of rank, in every process; for small objects."""
    if get_world_size() == 1:
        return [value]
    gathered = [None] * get_world_size()
    dist.all_gather_object(gathered, value, group=_cpu_group(dist.group.WORLD))
    return gathered


# Published names, which only scripts use.
all_gather = all_gather_objects


def is_pytorch_1_1_0_or_later() -> bool:
    """Return True: the scheduler's step after the optimizer's, which published scripts ask for, is allowed."""
    return True


@torch.no_grad()
def broadcast_buffers(module: torch.nn.Module) -> None:
    """Copy rank 0's buffers to every process, such as BatchNorm statistics that each process tracks by itself."""
    if get_world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def exit_now(status: int) -> NoReturn:
    """Flush the log, kill the child processes and end the process without the interpreter's shutdown.

    During the shutdown a gloo thread that releases its last tensor would abort the process.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # The terminal may have closed, or the program that the output goes to.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


# The default group is the cache key: after torch.distributed is initialized again, a new CPU group is needed.
@functools.lru_cache(maxsize=1)
def _cpu_group(_world: dist.ProcessGroup) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


# gloo's threads abort the process if a reference to a group still exists at the interpreter's shutdown.
atexit.register(_cpu_group.cache_clear)
