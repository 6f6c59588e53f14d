"""Starting from weights, and saving and resuming the state of a training run."""

import logging
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from fcos_core.errors import InputError
from fcos_core.utils import comm
from fcos_core.utils.files import replacing
from fcos_core.weights.matching import load_matching
from fcos_core.weights.state_dict_file import load_state_dict_file, read_checkpoint, reason_of, state_dict_of

# Of the numbered checkpoints, the iteration.
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")


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
        others: whatever else belongs to the state, by name, such as a gradient scaler or an average of weights.
        keep_last: of the checkpoints named model_NNNNNNN, how many newest ones `save` leaves; 0: all.

    Attributes:
        resumed_from: the file that `resume` read; empty before, and where it found none.
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
        others: Mapping[str, Any] | None = None,
        keep_last: int = 0,
    ) -> None:
        self.cfg = cfg
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.save_dir = save_dir
        self.save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        self.logger = logger or logging.getLogger(__name__)
        self.others = dict(others or {})
        self.keep_last = keep_last
        self.resumed_from = ""

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
        load_matching(unwrapped(self.model), load_state_dict_file(f), f, self.logger)
        return {}

    def resume(self) -> dict[str, Any] | None:
        """Load model, optimizer, scheduler and the others exactly as the last `save` left them.

        Where the last checkpoint is damaged or gone, the one before it serves. Over several processes the main
        one alone reads, and gives the others what it read: they need not see its disk.

        Returns:
            What `save` was given beside them, such as {"iteration": n}; None when nothing was saved.

        Raises:
            InputError: every state is damaged, or the one found is incomplete or of another model or optimizer.
        """
        path, content = comm.broadcast_object(self._read_newest() if comm.is_main_process() else None)
        if not path:
            return None
        parts = self._parts()
        lacking = [name for name in parts if not isinstance(content, dict) or name not in content]
        for name in [name for name in lacking if name in self.others]:
            self.logger.warning("'%s' has no %s: it starts anew.", path, name)
            lacking.remove(name)
            del parts[name]
        if lacking:
            raise InputError(
                f"Cannot resume: '{path}' is no training state, it lacks {' and '.join(lacking)}; "
                f"{self._advice()}. To start from its weights give it as MODEL.WEIGHT."
            )
        states = {**{name: content[name] for name in parts}, "model": state_dict_of(content, path)}
        self.logger.info("Resuming from %s: MODEL.WEIGHT is not read", path)
        for name, part in parts.items():
            self._restore(name, part, states[name], path)
        self.resumed_from = path
        return {name: value for name, value in content.items() if name not in parts}

    def save(self, name: str, tag: bool = True, **extra: Any) -> None:
        """Write {"model", "optimizer", "scheduler", the others, **extra} to `save_dir/name.pth`.

        A crash leaves the former file whole. Only the process that writes to disk does anything.

        Args:
            tag: whether `resume` shall find it; False for a state kept for diagnosis.
            extra: plain values and tensors, given back by `resume`; one named as a part takes its place.

        Raises:
            InputError: it cannot be written, or `extra` holds something that could not be read back.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {key: part.state_dict() for key, part in self._parts().items()}
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
                self._remove_old(os.path.basename(path))
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
            raise InputError(f"{self._tag_file()} is empty: write the name of a whole checkpoint into it.")
        beside = os.path.join(self.save_dir, os.path.basename(written))
        return written if os.path.isfile(written) and not os.path.isfile(beside) else beside

    def _parts(self) -> dict[str, Any]:
        parts = {"model": unwrapped(self.model), "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {**{name: part for name, part in parts.items() if part is not None}, **self.others}

    def _read_newest(self) -> tuple[str, Any]:
        """Path and content of the newest checkpoint that can be read; an empty path when none was saved."""
        if not self.has_checkpoint():
            return "", None
        damage: list[InputError] = []
        for path in self._candidates(damage):
            if damage:
                self.logger.warning("%s Going on from an earlier checkpoint: %s", damage[-1], path)
            try:
                return path, _read_whole(path)
            except InputError as error:
                damage.append(error)
        raise InputError(f"Cannot resume. {damage[0]} Or {self._advice()}.")

    def _candidates(self, damage: list[InputError]) -> Iterator[str]:
        """The last checkpoint, then the numbered ones before it, newest first."""
        limit = None
        try:
            last = self.get_checkpoint_file()
        except InputError as error:
            damage.append(error)
        else:
            limit = _iteration_of(os.path.basename(last))
            yield last
        for iteration, name in reversed(self._numbered()):
            if limit is None or iteration < limit:
                yield os.path.join(self.save_dir, name)

    def _numbered(self) -> list[tuple[int, str]]:
        """(iteration, file name) of the numbered checkpoints, oldest first."""
        return sorted(
            (int(match[1]), match[0]) for match in map(_NUMBERED.fullmatch, os.listdir(self.save_dir)) if match
        )

    def _remove_old(self, newest: str) -> None:
        limit = _iteration_of(newest)
        if not self.keep_last or limit is None:
            return
        # A number above the newest is of a run that somebody went back from; it is not this one's to remove.
        for _, name in [pair for pair in self._numbered() if pair[0] <= limit][: -self.keep_last]:
            try:
                os.remove(os.path.join(self.save_dir, name))
            except OSError as error:
                self.logger.warning("The old checkpoint %s could not be removed: %s.", name, error.strerror)

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


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside DistributedDataParallel or DataParallel; any other as it is."""
    return model.module if isinstance(model, (DistributedDataParallel, DataParallel)) else model


def _iteration_of(name: str) -> int | None:
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def _read_whole(path: str) -> Any:
    """`read_checkpoint`, the check sums of all tensors compared too, which torch.load does not."""
    if not os.path.exists(path):
        raise InputError(f"The last checkpoint is to be '{path}', which does not exist.")
    content = read_checkpoint(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            try:
                broken = archive.testzip()
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                broken = str(error)
        if broken:
            raise InputError(f"The file '{path}' is damaged ({broken} is not what was written).")
    return content
