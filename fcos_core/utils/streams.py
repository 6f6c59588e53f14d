"""Run independent parts of a network on separate CUDA streams."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")

_forking: ContextVar[bool] = ContextVar("forking", default=False)
_side_streams: dict[int, list[torch.cuda.Stream]] = {}


@contextmanager
def forked_streams() -> Iterator[None]:
    """Let `parallel` run each task on its own CUDA stream, so that a captured CUDA graph has parallel branches."""
    token = _forking.set(True)
    try:
        yield
    finally:
        _forking.reset(token)


def parallel(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Run tasks that do not depend on each other, and return their results in the order of the tasks.

    The tasks run one after another, except within `forked_streams`. Within this context a task must not call
    `parallel`, and must not write to memory that another task reads.
    """
    if torch.compiler.is_compiling() or not _forking.get() or len(tasks) < 2:
        return [task() for task in tasks]
    # The allocator gives a freed block again only to the stream that allocated the block. This is safe here without
    # Tensor.record_stream: `tasks` keeps all inputs of the tasks alive until the streams join. When a result is freed
    # after the join, its side stream reuses the block only after the next fork, which waits for the main stream.
    main = torch.cuda.current_stream()
    sides = _sides(main, len(tasks) - 1)
    for side in sides:
        side.wait_stream(main)
    results = []
    for stream, task in zip([main, *sides], tasks, strict=True):
        with torch.cuda.stream(stream):
            results.append(task())
    for side in sides:
        main.wait_stream(side)
    return results


def _sides(main: torch.cuda.Stream, count: int) -> list[torch.cuda.Stream]:
    """Return `count` side streams, the same at every fork from `main`, so that forks reuse each other's memory.

    PyTorch hands out 32 streams in turn, so `main` may itself be a side stream of forks from another stream.
    """
    streams = _side_streams.setdefault(main.device_index, [])
    while len(others := [stream for stream in streams if stream != main]) < count:
        stream = torch.cuda.Stream(main.device_index)
        if stream not in streams:
            streams.append(stream)
    return others[:count]
