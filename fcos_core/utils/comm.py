"""What processes of one run say to each other; every function also works in a single process."""

import atexit
import functools
import logging
import multiprocessing
import os
import sys
from typing import Any, NoReturn

import torch
import torch.distributed as dist


def get_world_size() -> int:
    """Number of processes; 1 when torch.distributed is not initialized."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def get_rank() -> int:
    """Rank of this process; 0 when torch.distributed is not initialized."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that logs and writes files."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() > 1:
        nccl = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if nccl else None)


@torch.no_grad()
def reduce_dict(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Average of scalar tensors over all processes, for logging.

    Args:
        values: name to scalar tensor; the same names in every process.

    Returns:
        Name to scalar tensor without gradient: the averages on rank 0. What other ranks get has no meaning.
    """
    if get_world_size() == 1 or not values:
        return {name: value.detach() for name, value in values.items()}
    names = sorted(values)
    stacked = torch.stack([values[name].detach() for name in names])
    dist.reduce(stacked, dst=0)
    if is_main_process():
        stacked /= get_world_size()
    return dict(zip(names, stacked.unbind(), strict=True))


@torch.no_grad()
def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of `tensor` over all processes, as a new tensor of its shape and dtype, without gradient."""
    total = tensor.detach().clone()
    if get_world_size() > 1:
        dist.all_reduce(total)
    return total


@torch.no_grad()
def gather_tensors(tensor: torch.Tensor) -> torch.Tensor | None:
    """CPU tensors of all processes, in order of rank, concatenated along dimension 0 on rank 0; None elsewhere.

    Each is received in its place: rank 0 needs the memory of the result and no more.

    Args:
        tensor: (n, ...); n may differ, all else may differ only where n is 0.
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
    """What rank 0 gave, in every process. It is pickled and travels through CPU memory."""
    if get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_cpu_group(dist.group.WORLD))
    return values[0]


def all_gather_objects(value: Any) -> list[Any]:
    """Small objects of all processes, in order of rank, in every process."""
    if get_world_size() == 1:
        return [value]
    gathered = [None] * get_world_size()
    dist.all_gather_object(gathered, value, group=_cpu_group(dist.group.WORLD))
    return gathered


@torch.no_grad()
def broadcast_buffers(module: torch.nn.Module) -> None:
    """Give every process the buffers of rank 0, such as BatchNorm statistics that each has tracked for itself."""
    if get_world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def leave(status: int) -> NoReturn:
    """End the process at once, its log written and its children killed, without taking the interpreter down.

    A thread of gloo that drops its last tensor while the interpreter is taken down would abort the process.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


# The key is the default group: a run that initializes torch.distributed anew needs a new group too.
@functools.lru_cache(maxsize=1)
def _cpu_group(_world: dist.ProcessGroup) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


# gloo's threads abort the process where a group is still held when the interpreter is torn down.
atexit.register(_cpu_group.cache_clear)
