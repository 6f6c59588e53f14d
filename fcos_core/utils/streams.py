"""Independent parts of a network on CUDA streams of their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")

_forking: ContextVar[bool] = ContextVar("forking", default=False)
_side_streams: dict[int, list[torch.cuda.Stream]] = {}


@contextmanager
def forked_streams(enabled: bool = True) -> Iterator[None]:
    """Within it, on a CUDA device, `parallel` runs its tasks on streams of their own; a graph that is captured
    there has parallel branches."""
    token = _forking.set(enabled)
    try:
        yield
    finally:
        _forking.reset(token)


def parallel(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """The results of tasks that do not depend on each other, in order.

    One after another, except within `forked_streams`. There, tasks must not fork again, nor write to what
    another one reads.
    """
    if torch.compiler.is_compiling() or not _forking.get() or len(tasks) < 2:
        return [task() for task in tasks]
    # The allocator reuses a block in the order of the stream that it was allocated on. That is safe here without
    # Tensor.record_stream: `tasks` holds what they read until the join, and a side stream writes to what was freed
    # since only after its next fork, which waits for all that was queued on the main stream till then.
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
    """The same streams at every fork from `main`: what one fork frees, the next one can reuse.

    PyTorch has 32 streams, which it hands out in turn: `main` may be one of those that served another fork.
    """
    streams = _side_streams.setdefault(main.device_index, [])
    while len(others := [stream for stream in streams if stream != main]) < count:
        stream = torch.cuda.Stream(main.device_index)
        if stream not in streams:
            streams.append(stream)
    return others[:count]
