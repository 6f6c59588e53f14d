"""Saves a training and ends its process when it is told to leave, or when it waits for too long."""

import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from fcos_core.utils import comm

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A longer wait would notice the end of the training, or a new limit, too late.
_POLL_SECONDS = 0.5
# Processes that wait for the same answer give up within this; the launcher ends them as soon as one has left.
_OTHERS_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Guard:
    """While it is entered, a thread watches over the training loop of this process.

    On SIGTERM or SIGINT, or when the loop has been in one step for longer than `timeout`, it calls `save`, says
    what happened and ends the process. It needs nothing from the loop, which may be waiting in a collective for
    processes that have gone; no collective is called.

    Args:
        save: saves where there is something to save; returns a sentence about it, without its full stop.
        timeout: seconds.

    Attributes:
        iteration, step: what the loop is doing.
    """

    def __init__(self, save: Callable[[], str], timeout: float) -> None:
        self._save = save
        self._timeout = timeout
        self._limit = float("inf")
        self.iteration, self.step = 0, "start"

    def at(self, iteration: int, step: str, timed: bool = True) -> None:
        """Note what the loop begins to do now.

        Args:
            iteration: 1-based.
            step: a noun for messages.
            timed: whether it may take no longer than the timeout.
        """
        self.iteration, self.step = iteration, step
        self._limit = time.monotonic() + self._timeout if timed else float("inf")

    def __str__(self) -> str:
        return f"process {comm.get_rank()} in iteration {self.iteration}, {self.step}"

    def __enter__(self) -> "Guard":
        self._waker, self._ear = socket.socketpair()
        self._handlers = {}
        # Only the main thread receives signals; a loop that runs elsewhere leaves them to whoever has it.
        if threading.current_thread() is threading.main_thread():
            self._waker.setblocking(False)
            # Python runs handlers between bytecodes, never inside a collective; the byte is written at once.
            self._former_fd = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
            self._handlers = {number: signal.signal(number, _nothing) for number in SIGNALS}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._handlers:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._former_fd)
        self._waker.close()
        self._ear.close()

    def _watch(self) -> None:
        while not self._done.is_set():
            rest = max(0.0, self._limit - time.monotonic())
            if select.select([self._ear], [], [], min(rest, _POLL_SECONDS))[0]:
                for number in self._ear.recv(64):
                    if number in SIGNALS:
                        self._leave(f"Received {signal.Signals(number).name}", 128 + number)
            elif time.monotonic() >= self._limit:
                reason = f"No answer for {self._timeout:g} s (DISTRIBUTED.TIMEOUT)"
                self._leave(reason, 1, linger=_OTHERS_SECONDS if comm.get_world_size() > 1 else 0)

    def _leave(self, reason: str, status: int, linger: float = 0) -> None:
        where = str(self)
        try:
            saved = self._save()
        except Exception as error:  # the process ends in any case, and says why nothing was saved
            saved = f"nothing could be saved: {error}"
        logger.warning("%s: %s; %s. Leaving.", reason, where, saved)
        time.sleep(linger)
        comm.leave(status)


def _nothing(number: int, frame: object) -> None:
    """The byte that the signal wrote has woken the guard's thread."""
