"""Crash-safe snapshot of the training state."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fcos_core.utils.child_exits import ignoring_child_exits
from fcos_core.utils.folder_lock import FolderLock
from fcos_core.weights.checkpointer import DetectronCheckpointer, unwrapped


class TrainingSnapshot:
    """Training state after the last finished iteration, which any thread can save during the next one.

    Weights, momentum and averages change only inside `finishing`. BatchNorm statistics and the schedule change
    earlier in an iteration, so the snapshot holds copies of them. `arguments` are plain values for every checkpoint;
    "iteration" counts the finished iterations.

    Args:
        checkpointer: of the training.
        arguments: plain values.
        folder_lock: lock on the checkpointer's folder, if this process saves.

    Attributes:
        lock: nothing is saved while a thread holds it: hold it over what has to be seen together.
    """

    def __init__(
        self,
        checkpointer: DetectronCheckpointer,
        arguments: dict[str, Any],
        folder_lock: FolderLock | None = None,
    ) -> None:
        self.checkpointer = checkpointer
        self.arguments = arguments
        self.lock = threading.RLock()
        self._folder_lock = folder_lock
        self._consistent = True
        self._saved_iteration = arguments["iteration"]
        self._statistics = {
            name: buffer
            for prefix, module in unwrapped(checkpointer.model).named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
            for name, buffer in module.named_buffers(prefix)
        }
        self._copies = {name: buffer.clone() for name, buffer in self._statistics.items()}
        self._copy_early_changes()

    @contextlib.contextmanager
    def finishing(self, iteration: int) -> Iterator[None]:
        """Surround the optimizer's step of `iteration`; if an error interrupts the step, nothing is saved any more."""
        with self.lock, ignoring_child_exits():
            self._consistent = False
            yield
            self.arguments["iteration"] = iteration
            self._copy_early_changes()
            self._consistent = True

    def save(self, name: str = "", tag: bool = True) -> str:
        """Save the snapshot as `name`.pth, by default under the number of its iteration; return a clause for the log.

        With `tag` a resumed run finds the file. Raise InputError if the file cannot be written.
        """
        # A reader that dies now is reported at the next read: the file, the disk and the state are in order.
        with self.lock, ignoring_child_exits():
            iteration = self.arguments["iteration"]
            if not self._consistent:
                return "the iteration was half done and is not saved"
            if self._folder_lock is not None:
                self._folder_lock.renew()
            with self._stream():
                model = {**unwrapped(self.checkpointer.model).state_dict(), **self._copies}
                name = name or f"model_{iteration:07d}"
                self.checkpointer.save(name, tag, model=model, **self._schedule, **self.arguments)
            if tag:
                self._saved_iteration = iteration
            return f"iteration {iteration} is saved, start again to resume from it"

    def save_if_new(self) -> str:
        """Save the last finished iteration unless it is saved already; return a clause for the log.

        An error of saving becomes part of the clause, so that it does not hide the reason for the exit.
        """
        try:
            with self.lock:
                iteration = self.arguments["iteration"]
                if not self.checkpointer.save_dir:
                    return "nothing is saved without an OUTPUT_DIR"
                if not self.checkpointer.save_to_disk:
                    return "only the main process saves"
                if iteration == 0:
                    return "no iteration is finished"
                if iteration == self._saved_iteration:
                    return f"iteration {iteration} is saved already, start again to resume from it"
                return self.save()
        except Exception as error:
            return f"nothing could be saved: {str(error).rstrip('.')}"

    def _copy_early_changes(self) -> None:
        """Copy the parts of the state that the next iteration changes before `finishing`."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), list(self._statistics.values()))
        scheduler = self.checkpointer.scheduler
        self._schedule = {} if scheduler is None else {"scheduler": dict(scheduler.state_dict())}
        self._event = None
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._event = torch.cuda.Event()
            self._event.record()

    def _stream(self) -> contextlib.AbstractContextManager:
        """Make a CUDA stream that waits for the last finished iteration, but not for later kernels, which may hang."""
        if self._event is None:
            return contextlib.nullcontext()
        # The current GPU belongs to a thread: the saving thread may have another one than the training loop.
        stream = torch.cuda.Stream(self._event.device)
        stream.wait_event(self._event)
        return torch.cuda.stream(stream)
