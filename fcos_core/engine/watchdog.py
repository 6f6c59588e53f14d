"""Watchdog of the training loop: save and exit on a signal, or when a step hangs."""

import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

from fcos_core.utils import comm

# SIGHUP comes when the terminal or the connection of a training closes.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# The thread checks so often for the end of the training and for a new deadline.
_POLL_SECONDS = 0.5
# The launcher ends all processes after the first exit: give the others, which hang too, time for their messages.
_OTHERS_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Watchdog:
    """Thread that saves the training and ends the process on SIGTERM, SIGINT, SIGHUP, or a step longer than `timeout`.

    A SIGHUP that is ignored, as `nohup` wants it, stays ignored. A process that torchrun started leaves too when
    torchrun has gone: a killed torchrun cannot tell it, and the restarted job needs its folder.

    The thread runs inside the `with` block. It needs nothing from the training loop, which may hang in a collective
    because other processes have exited, and it calls no collective itself.

    Args:
        save: saves the training if it is not saved yet; returns a clause about it for the log and never raises.
        timeout: seconds that a timed step may take.
    """

    def __init__(self, save: Callable[[], str], timeout: float) -> None:
        self._save = save
        self._timeout = timeout
        self._deadline = float("inf")
        self.iteration, self.step = 0, "start"

    def at(self, iteration: int, step: str, timed: bool = True) -> None:
        """Note that the loop begins `step`, a noun for messages, of the 1-based `iteration`; time it if `timed`."""
        self.iteration, self.step = iteration, step
        self._deadline = time.monotonic() + self._timeout if timed else float("inf")

    def __str__(self) -> str:
        return f"process {comm.get_rank()} in iteration {self.iteration}, {self.step}"

    def __enter__(self) -> "Watchdog":
        self._signal_writer, self._signal_reader = socket.socketpair()
        self._former_handlers = {}
        # Only the main thread receives signals; a loop in another thread leaves them to the program's handlers.
        if threading.current_thread() is threading.main_thread():
            self._signal_writer.setblocking(False)
            # Python delays handlers until a collective returns, but writes the signal's number to this socket at once.
            self._former_fd = signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)
            ignored = [number for number in (signal.SIGHUP,) if signal.getsignal(number) == signal.SIG_IGN]
            handled = [number for number in SIGNALS if number not in ignored]
            self._former_handlers = {number: signal.signal(number, lambda *_: None) for number in handled}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._former_handlers:
            for number, handler in self._former_handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._former_fd)
        self._signal_writer.close()
        self._signal_reader.close()

    def _watch(self) -> None:
        while not self._done.is_set():
            remaining = max(0.0, self._deadline - time.monotonic())
            if select.select([self._signal_reader], [], [], min(remaining, _POLL_SECONDS))[0]:
                for number in self._signal_reader.recv(64):
                    if number in SIGNALS:
                        self._save_and_exit(f"Received {signal.Signals(number).name}", 128 + number)
            elif time.monotonic() >= self._deadline:
                reason = f"No progress for {self._timeout:g} s (DISTRIBUTED.TIMEOUT)"
                self._save_and_exit(reason, 1, delay=_OTHERS_SECONDS if comm.get_world_size() > 1 else 0)

    def _save_and_exit(self, reason: str, status: int, delay: float = 0) -> None:
        where = str(self)
        logger.warning("%s: %s; %s. Exiting.", reason, where, self._save())
        time.sleep(delay)
        comm.exit_now(status)
