"""The faster of two ways to compute the same on this GPU."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_precision: ContextVar[str | None] = ContextVar("precision", default=None)
# What was measured in this process.
_is_fused: dict[Hashable, bool] = {}

# A fused kernel that is no faster may be taken: a margin where few are keeps noise from deciding.
_MARGIN = 1.1
_REPEATS = 5
_SLEEP_CYCLES = 2_000_000


@contextmanager
def measured_kernels(precision: str) -> Iterator[None]:
    """Within it, on CUDA devices, `use_fused` may say yes.

    Args:
        precision: of what is measured, beyond its dtype: float32 with TF32 has other kernels.
    """
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def use_fused(key: Hashable, fused: Callable[[], Tensor], separate: Callable[[], Tensor]) -> bool:
    """Whether cuDNN's fused kernel is to be used in place of separate ones.

    Depending on shapes, types and version it is faster or many times slower (PyTorch issue 68506: 17 times), or there
    is none. So both are measured when a key first comes, unless that is in the capture of a CUDA graph.

    Args:
        key: all else that the times depend on.
        fused, separate: compute the same; the separate kernels are those to be trusted.
    """
    precision = _precision.get()
    if precision is None:
        return False
    key = (precision, key)
    if key not in _is_fused and not torch.cuda.is_current_stream_capturing():
        _is_fused[key] = _is_right(fused, separate()) and _gpu_time(fused) < _MARGIN * _gpu_time(separate)
    return _is_fused.get(key, False)


def _is_right(fused: Callable[[], Tensor], expected: Tensor) -> bool:
    """Whether there is such a kernel, and it gives what is expected wherever its output lies."""
    try:
        out = fused()
    except RuntimeError as error:
        if "unable to find an engine" not in str(error):
            raise
        return False
    # Without a shortcut PyTorch has the memory of the output added, times 0, which a NaN survives. The allocator gives
    # out again what was freed last.
    address = out.data_ptr()
    out.fill_(float("nan"))
    del out
    out = fused()
    # Half types are rounded once against three times; what is wrong is farther off.
    tolerance = 0.02 * expected.abs().amax()
    return out.data_ptr() == address and bool((out - expected).abs().amax() <= tolerance)


def _gpu_time(run: Callable[[], Tensor]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # While the GPU sleeps all is queued: as in a graph, no kernel waits for the host.
    torch.cuda._sleep(_SLEEP_CYCLES)
    start.record()
    for _ in range(_REPEATS):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
