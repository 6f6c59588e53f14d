"""What a training has come to, ready to be saved at any moment."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fcos_core.errors import InputError
from fcos_core.weights.checkpointer import DetectronCheckpointer, unwrapped


class TrainingState:
    """Saves the state as of the last finished iteration, also in the middle of the next, from any thread.

    Weights, momentum and averages change only while an iteration is being finished; BatchNorm statistics and
    the schedule change before, so that copies of them are kept.

    Args:
        checkpointer: of the model, optimizer, schedule and whatever else goes into a checkpoint.
        arguments: {"iteration": iterations trained, ...}: plain values that go into every checkpoint.
    """

    def __init__(self, checkpointer: DetectronCheckpointer, arguments: dict[str, Any]) -> None:
        self.checkpointer = checkpointer
        self.arguments = arguments
        self._lock = threading.RLock()
        self._whole = True
        self._saved_iteration = arguments["iteration"]
        self._statistics = {
            name: buffer
            for prefix, module in unwrapped(checkpointer.model).named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
            for name, buffer in module.named_buffers(prefix)
        }
        self._kept = {name: buffer.clone() for name, buffer in self._statistics.items()}
        self._remember()

    @contextlib.contextmanager
    def finishing(self, iteration: int) -> Iterator[None]:
        """Around the optimizer's step of `iteration`; one that an error leaves half done is never saved."""
        with self._lock, _children_unheard():
            self._whole = False
            yield
            self.arguments["iteration"] = iteration
            self._remember()
            self._whole = True

    def save(self, name: str = "", tag: bool = True) -> str:
        """Save to `name`.pth, by default to the iteration's own.

        Returns:
            A sentence, without its full stop, on what was saved.

        Raises:
            InputError: it cannot be written.
        """
        with self._lock:
            iteration = self.arguments["iteration"]
            if not self._whole:
                return "the iteration was half done and is not saved"
            self._write(name or f"model_{iteration:07d}", tag)
            if tag:
                self._saved_iteration = iteration
            return f"iteration {iteration} is saved, start again to go on from there"

    def save_unsaved(self) -> str:
        """Save the last finished iteration unless it has been; returns as `save` does."""
        with self._lock:
            iteration = self.arguments["iteration"]
            if not self.checkpointer.save_dir:
                return "there is no OUTPUT_DIR to save to"
            if not self.checkpointer.save_to_disk:
                return "saving is left to the main process"
            if iteration == 0:
                return "no iteration is finished"
            if iteration == self._saved_iteration:
                return f"iteration {iteration} is saved already, start again to go on from there"
            return self.save()

    def try_to_save(self) -> str:
        """`save_unsaved` after an error, which a second one shall not hide."""
        try:
            return self.save_unsaved()
        except (InputError, RuntimeError) as error:
            return f"nothing could be saved: {error}"

    def _write(self, name: str, tag: bool) -> None:
        with self._stream():
            model = {**unwrapped(self.checkpointer.model).state_dict(), **self._kept}
            self.checkpointer.save(name, tag, model=model, **self._schedule, **self.arguments)

    def _remember(self) -> None:
        if self._kept:
            torch._foreach_copy_(list(self._kept.values()), list(self._statistics.values()))
        scheduler = self.checkpointer.scheduler
        self._schedule = {} if scheduler is None else {"scheduler": dict(scheduler.state_dict())}
        self._event = None
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._event = torch.cuda.Event()
            self._event.record()

    def _stream(self) -> contextlib.AbstractContextManager:
        """A stream that waits for the last finished iteration, not for what may hang behind it."""
        if self._event is None:
            return contextlib.nullcontext()
        # The current GPU is a thread's own: whoever saves may have another one.
        stream = torch.cuda.Stream(self._event.device)
        stream.wait_event(self._event)
        return torch.cuda.stream(stream)


@contextlib.contextmanager
def _children_unheard() -> Iterator[None]:
    """Nothing is raised here because a process that reads images has died; whoever next reads from it will know.

    torch raises from the signal's handler, in whatever the main thread is doing.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
