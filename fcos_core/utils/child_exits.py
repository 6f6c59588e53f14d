"""Keep the death of a worker from interrupting work that must not stop half-way."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def ignoring_child_exits() -> Iterator[None]:
    """Keep torch's SIGCHLD handler from raising here if a worker dies; the next read of the loader reports it."""
    handler = signal.getsignal(signal.SIGCHLD)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
