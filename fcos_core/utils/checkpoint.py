"""Starting from weights, and saving and resuming the state of a training run."""

import logging
import os
import pickle
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from fcos_core.errors import InputError
from fcos_core.utils.comm import is_main_process
from fcos_core.utils.files import replacing
from fcos_core.utils.matching import load_matching
from fcos_core.utils.weights import load_state_dict_file, read_checkpoint, reason_of, state_dict_of

_STATES = ("model", "optimizer", "scheduler")


class DetectronCheckpointer:
    """Weights into a model, and training states to and from `save_dir`.

    Args:
        cfg: taken for the sake of published scripts; not read.
        model: a module, also wrapped in DistributedDataParallel; keys in files never have the wrapper's prefix.
        optimizer: saved and resumed with the model where given.
        scheduler: likewise; anything with `state_dict` and `load_state_dict`.
        save_dir: folder of the training states; empty: none are saved or found.
        save_to_disk: whether this process writes; None: the main process does.
        logger: where lines go; None: the logger of this module.
    """

    def __init__(
        self,
        cfg: Any,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        save_dir: str = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self.cfg = cfg
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.save_dir = save_dir
        self.save_to_disk = is_main_process() if save_to_disk is None else save_to_disk
        self.logger = logger or logging.getLogger(__name__)

    def load(self, f: str) -> dict[str, Any]:
        """Load the weights that `f` holds and nothing else; an empty `f` leaves the model as it is.

        Args:
            f: a .pth or Caffe2 .pkl file, a URL or a catalog:// name, whatever `save_dir` holds.

        Returns:
            An empty dict, as nothing but weights is taken.

        Raises:
            InputError: `f` cannot be had or read, or is of another model; the model is as it was.
        """
        if not f:
            self.logger.info("No weights given: training starts from random initialization")
            return {}
        if self.optimizer is not None and self.has_checkpoint():
            self.logger.warning(
                "%s holds a training state, which `load` leaves aside; `resume` goes on from it.",
                self.save_dir,
            )
        load_matching(_unwrapped(self.model), load_state_dict_file(f), f, self.logger)
        return {}

    def resume(self) -> dict[str, Any] | None:
        """Load model, optimizer and scheduler exactly as the last `save` left them.

        Returns:
            What `save` was given beside them, such as {"iteration": n}; None when nothing was saved.

        Raises:
            InputError: the state is damaged, incomplete, or of another model or optimizer.
        """
        if not self.has_checkpoint():
            return None
        path = self.get_checkpoint_file()
        if not os.path.isfile(path):
            raise InputError(f"{self._tag_file()} names '{path}', which does not exist; {self._advice()}.")
        try:
            content = read_checkpoint(path)
        except InputError as error:
            raise InputError(f"Cannot resume. {error} Or {self._advice()}.") from error
        parts = {"model": _unwrapped(self.model), "optimizer": self.optimizer, "scheduler": self.scheduler}
        parts = {name: part for name, part in parts.items() if part is not None}
        lacking = [name for name in parts if not isinstance(content, dict) or name not in content]
        if lacking:
            raise InputError(
                f"Cannot resume: '{path}' is no training state, it lacks {' and '.join(lacking)}; "
                f"{self._advice()}. To start from its weights give it as MODEL.WEIGHT."
            )
        states = {**{name: content[name] for name in parts}, "model": state_dict_of(content, path)}
        self.logger.info("Resuming from %s: MODEL.WEIGHT is not read", path)
        for name, part in parts.items():
            self._restore(name, part, states[name], path)
        return {name: value for name, value in content.items() if name not in _STATES}

    def save(self, name: str, tag: bool = True, **extra: Any) -> None:
        """Write {"model", "optimizer", "scheduler", **extra} to `save_dir/name.pth`.

        A crash leaves the former file whole. Only the process that writes to disk does anything.

        Args:
            tag: whether `resume` shall find it; False for a state kept for diagnosis.
            extra: plain values and tensors, given back by `resume`.

        Raises:
            InputError: it cannot be written, or `extra` holds something that could not be read back.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        parts = {"model": _unwrapped(self.model), "optimizer": self.optimizer, "scheduler": self.scheduler}
        content = {key: part.state_dict() for key, part in parts.items() if part is not None}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            os.makedirs(self.save_dir, exist_ok=True)
            with replacing(path) as file:
                torch.save({**content, **extra}, file)
                file.flush()
                # mmap leaves the tensors' data on the disk: this reads names and types alone.
                torch.load(file.name, map_location="meta", weights_only=True, mmap=True)
            if tag:
                with replacing(self._tag_file()) as file:
                    file.write(os.path.basename(path).encode())
        # torch.save turns a full disk into a RuntimeError.
        except (OSError, RuntimeError) as error:
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise InputError(
                f"The checkpoint '{path}' could not be written: {cause}. Earlier checkpoints are as they were; "
                "make room, or set OUTPUT_DIR to a folder that can be written to."
            ) from error
        except (pickle.PickleError, AttributeError, TypeError) as error:
            raise InputError(
                f"The checkpoint '{path}' was not written: it could not be read back ({reason_of(error)}). Save "
                "tensors and plain Python values only."
            ) from error

    def has_checkpoint(self) -> bool:
        """Whether `save_dir` has a training state to resume from."""
        return bool(self.save_dir) and os.path.exists(self._tag_file())

    def get_checkpoint_file(self) -> str:
        """Path of the last training state, "" when there is none.

        The `last_checkpoint` file may hold a bare name or, as published code wrote it, a whole path; the file
        of that name in `save_dir` comes first, so that a folder can be moved or copied.

        Raises:
            InputError: `last_checkpoint` is empty or cannot be read.
        """
        if not self.has_checkpoint():
            return ""
        try:
            with open(self._tag_file(), encoding="utf-8", errors="replace") as file:
                written = file.read().strip()
        except OSError as error:
            raise InputError(f"{self._tag_file()} cannot be read: {error.strerror}.") from error
        if not written:
            raise InputError(f"{self._tag_file()} is empty; {self._advice()}.")
        beside = os.path.join(self.save_dir, os.path.basename(written))
        return written if os.path.isfile(written) and not os.path.isfile(beside) else beside

    def _restore(self, name: str, part: Any, state: Any, path: str) -> None:
        try:
            part.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"Cannot resume: the {name} in '{path}' is not this run's ({reason}); resume with the config that "
                f"it was saved under, or {self._advice()}."
            ) from error

    def _tag_file(self) -> str:
        return os.path.join(self.save_dir, "last_checkpoint")

    def _advice(self) -> str:
        return (
            f"write the name of a whole checkpoint of {self.save_dir} into {self._tag_file()}, or delete that "
            "file to start anew"
        )


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    return model.module if isinstance(model, (DistributedDataParallel, DataParallel)) else model
