"""Load weights into a model, and save and resume training states."""

import logging
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from fcos_core.config.paths_catalog import weights_source
from fcos_core.errors import InputError
from fcos_core.utils import comm
from fcos_core.utils.files import replacing
from fcos_core.weights.checkpoint_meta import CATEGORIES, CONFIG, CONVENTIONS, CheckpointMeta, meta_of, read_meta
from fcos_core.weights.importing import import_weights, recognize
from fcos_core.weights.safetensors_file import is_safetensors
from fcos_core.weights.state_dict_file import (
    find_weights,
    load_state_dict_file,
    read_checkpoint,
    reason_of,
    state_dict_of,
)
from fcos_core.weights.untrained import mark_untrained
from fcos_core.weights.weight_matching import WeightMatching, load_matching_weights

# Numbered checkpoints; the number is the iteration.
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
# States of parts that a run may have: without the part, the state of a former run is of no use to it.
_STATES = ("optimizer", "scheduler", "scaler", "ema")


class DetectronCheckpointer:
    """Loader of weights, and keeper of the training states in `save_dir`.

    Args:
        cfg: the run's config, which `save` writes as YAML text; None: no text.
        model: a module, with or without DistributedDataParallel; keys in files never have the wrapper's prefix.
        optimizer, scheduler: saved and resumed with the model by `state_dict` and `load_state_dict`; None: neither.
        save_dir: folder of the training states; empty: nothing is saved or found.
        save_to_disk: True if this process writes; None: the main process writes.
        logger: gets the log lines; None: the logger of this module.
        others: further parts of the state by name, such as a gradient scaler or an average of weights.
        keep_last: number of newest checkpoints named model_NNNNNNN that `save` keeps; 0: all.

    Attributes:
        categories: name of each label of this run, from label 1 on, for `save` to write; None: not known.
        loaded_config: YAML text of the config of the run whose file was read last; None if the file has none.
        loaded_categories: name of each label in the file that was read last; None if the file has no names.
        resumed_from: the file that `resume` has read, even if a state in it did not fit; empty if there was none.
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
        self.categories: Sequence[str] | None = None
        self.loaded_config: str | None = None
        self.loaded_categories: list[str] | None = None

    def load(self, f: str | None = None, use_latest: bool = True) -> dict[str, Any]:
        """Resume from `save_dir` if it has a training state; load the file `f` otherwise. Published scripts mean this.

        From a training state `f` of the same model, optimizer and scheduler are loaded too and the iteration is
        returned. To start from its weights alone, use `load_weights`, or remove the states from the file.

        Args:
            f: as `load_weights` takes it. Without it too, the model keeps its random initialization, which can be
                trained but not tested.
            use_latest: False: load `f` even if there is a training state in `save_dir`.

        Returns:
            The `extra` values of `save`, such as {"iteration": n}; {} if no training state was loaded.

        Raises:
            InputError: as `resume` and `load_weights` do.
        """
        extra = self.resume() if self.save_dir and use_latest else None
        if extra is not None:
            return extra
        matching = self.load_weights(f or "")
        return self._load_states(f, matching) if f and matching else {}

    def load_weights(self, f: str) -> WeightMatching | None:
        """Load weights, and nothing else, from `f`: a .pth, .safetensors or .pkl file, a URL or a name.

        A name is zoo://NAME, hf://ORGANIZATION/REPOSITORY/FILE or catalog://NAME. Files of other frameworks are
        recognized; a warning says if the config does not have the conventions that they were trained under.
        An empty `f` leaves the model unchanged; then return None. Raise InputError if `f` cannot be found or read, or
        is of another model; the model is unchanged then.
        """
        model = unwrapped(self.model)
        f = weights_source(f, getattr(self.cfg, "PATHS_CATALOG", ""))
        if not f:
            self.logger.info("No weights given: training starts from random initialization")
            mark_untrained(model, None)
            return None
        path = find_weights(f)  # once: the hub is asked each time if its file has changed
        loaded, meta = load_state_dict_file(path), read_meta(path)
        state = import_weights(model, loaded, f, meta, self.cfg, self.logger)
        matching = load_matching_weights(model, state, f, self.logger)
        mark_untrained(model, matching)
        self._describe(meta, has_classes=any("cls_logits" in key for key in matching.loaded))
        return matching

    def resume(self) -> dict[str, Any] | None:
        """Load model, optimizer, scheduler and the other parts exactly as the last `save` wrote them.

        If the last checkpoint is damaged or missing, resume from the one before it. Only the main process reads the
        file and sends it to the others, which may not see its disk. Return the `extra` values of `save`, such as
        {"iteration": n}; None if nothing was saved. Raise InputError if every state is damaged, or the state found is
        incomplete or of another model or optimizer.
        """
        path, content = comm.broadcast_object(self._read_newest() if comm.is_main_process() else None)
        if not path:
            return None
        parts = self._parts()
        lacking = [name for name in parts if not isinstance(content, dict) or name not in content]
        for name in [name for name in lacking if name in self.others]:
            self.logger.warning("'%s' holds no state of the %s, which begins anew.", path, name)
            lacking.remove(name)
            del parts[name]
        if lacking:
            raise InputError(
                f"Cannot resume: '{path}' is not a training state, it lacks {' and '.join(lacking)}; "
                f"{self._advice()}. To start from its weights, name it in MODEL.WEIGHT."
            )
        states = {**{name: content[name] for name in parts}, "model": state_dict_of(content, path)}
        self.logger.info("Resuming from %s: MODEL.WEIGHT is not read", path)
        # Known before the states are restored: if one does not fit, the caller can say what has changed.
        self.resumed_from = path
        self._describe(meta_of(content))
        for name, part in parts.items():
            self._restore(name, part, states[name], path)
        return self._extra_of(content)

    def _load_states(self, f: str, matching: WeightMatching) -> dict[str, Any]:
        """Load optimizer and scheduler of `f`, whose weights are loaded; return its other values, {} if it has none."""
        path = find_weights(weights_source(f, getattr(self.cfg, "PATHS_CATALOG", "")))
        content = {} if path.lower().endswith(".pkl") or is_safetensors(path) else read_checkpoint(path)
        if not isinstance(content, dict) or "model" not in content or matching.missing or matching.mismatched:
            return {}
        if recognize(state_dict_of(content, path), path):  # the optimizer is another framework's
            return {}
        states = {name: part for name, part in self._parts().items() if name != "model" and name in content}
        for name, part in states.items():
            self._restore(name, part, content[name], path)
        if states:
            self.logger.info("Going on from %s with its %s", path, " and ".join(states))
        return self._extra_of(content)

    def save(self, name: str, tag: bool = True, **extra: Any) -> None:
        """Write {"model", "optimizer", "scheduler", the other parts, **extra} to `save_dir/name.pth`.

        The file also gets "config" and "categories" of this run, even if `extra` holds those of an earlier run.
        A crash leaves the previous file undamaged. Only a process that writes to disk does anything. Raise InputError
        if the file cannot be written, or `extra` holds a value that could not be read back.

        Args:
            name: file name without its extension.
            tag: True if `resume` shall find the file; False for a state kept for diagnosis.
            extra: plain values and tensors that `resume` returns; a name of a part replaces the part's own state.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {key: part.state_dict() for key, part in self._parts().items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            os.makedirs(self.save_dir, exist_ok=True)
            _write_readable({**content, **extra, **self._description()}, path)
            if tag:
                with replacing(self._tag_file()) as file:
                    file.write(path.encode())
                self._remove_old(os.path.basename(path))
        # torch.save raises a RuntimeError for a full disk.
        except (OSError, RuntimeError) as error:
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise InputError(
                f"The checkpoint '{path}' could not be written: {cause}. Earlier checkpoints are unchanged; "
                "free disk space, or set OUTPUT_DIR to a folder with write permission."
            ) from error
        except (pickle.PickleError, AttributeError, TypeError) as error:
            raise InputError(
                f"The checkpoint '{path}' was not written: it could not be read back ({reason_of(error)}). Save only "
                "tensors and plain Python values."
            ) from error

    def has_checkpoint(self) -> bool:
        """Return True if `save_dir` has a training state to resume from."""
        return bool(self.save_dir) and os.path.exists(self._tag_file())

    def get_checkpoint_file(self) -> str:
        """Return the path of the last training state, "" if there is none.

        `last_checkpoint` holds a path, as published code writes it, or a file name. A file of that name in `save_dir`
        is preferred, so that a folder can be moved or copied. Raise InputError if `last_checkpoint` is
        empty or cannot be read.
        """
        if not self.has_checkpoint():
            return ""
        try:
            with open(self._tag_file(), encoding="utf-8", errors="replace") as file:
                written = file.read().strip()
        except OSError as error:
            raise InputError(f"{self._tag_file()} cannot be read: {error.strerror}.") from error
        if not written:
            raise InputError(f"{self._tag_file()} is empty: write the name of an undamaged checkpoint into it.")
        beside = os.path.join(self.save_dir, os.path.basename(written))
        return written if os.path.isfile(written) and not os.path.isfile(beside) else beside

    def _description(self) -> dict[str, Any]:
        """Return what `save` writes about this run, in plain types, which torch.load admits."""
        config = {} if self.cfg is None else {CONFIG: self.cfg.dump()}
        return config if self.categories is None else {**config, CATEGORIES: [str(name) for name in self.categories]}

    def _describe(self, meta: CheckpointMeta, has_classes: bool = True) -> None:
        """Keep what the file says; tell the model the names of its classes, if the file gave it its class layer."""
        self.loaded_config, self.loaded_categories = meta.config, meta.categories
        names = tuple(meta.categories or ()) if has_classes else None
        unwrapped(self.model).category_names = names  # type: ignore[assignment]

    def _parts(self) -> dict[str, Any]:
        parts = {"model": unwrapped(self.model), "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {**{name: part for name, part in parts.items() if part is not None}, **self.others}

    def _extra_of(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return what a script has saved beside the states of the parts."""
        others = (*self._parts(), *_STATES, CONFIG, CATEGORIES, CONVENTIONS)
        return {name: value for name, value in content.items() if name not in others}

    def _read_newest(self) -> tuple[str, Any]:
        """Return path and content of the newest readable checkpoint; an empty path if none was saved."""
        if not self.has_checkpoint():
            return "", None
        damage: list[InputError] = []
        for path in self._candidates(damage):
            if damage:
                self.logger.warning("%s Resuming from an earlier checkpoint: %s", damage[-1], path)
            try:
                return path, _read_undamaged(path)
            except InputError as error:
                damage.append(error)
        raise InputError(f"Cannot resume. {damage[0]} Or {self._advice()}.")

    def _candidates(self, damage: list[InputError]) -> Iterator[str]:
        """Yield the last checkpoint, then the numbered ones before it, newest first.

        If `last_checkpoint` cannot be read, yield all numbered ones; `damage` gets the error.
        """
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
        """List (iteration, file name) of the numbered checkpoints, oldest first."""
        matches = map(_NUMBERED.fullmatch, os.listdir(self.save_dir))
        return sorted((int(match[1]), match[0]) for match in matches if match)

    def _remove_old(self, newest: str) -> None:
        limit = _iteration_of(newest)
        if not self.keep_last or limit is None:
            return
        # After a user goes back to an earlier checkpoint, higher numbers belong to the former run: keep them.
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
                f"Cannot resume: the {name} in '{path}' does not fit this run ({reason}); resume with the config of "
                f"the run that saved it, or {self._advice()}."
            ) from error

    def _tag_file(self) -> str:
        return os.path.join(self.save_dir, "last_checkpoint")

    def _advice(self) -> str:
        return (
            f"write the name of an undamaged checkpoint in {self.save_dir} into {self._tag_file()}, or delete this "
            "file to start from the beginning"
        )


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside DistributedDataParallel or DataParallel; return any other module itself."""
    return model.module if isinstance(model, (DistributedDataParallel, DataParallel)) else model


def _iteration_of(name: str) -> int | None:
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def _write_readable(content: dict[str, Any], path: str) -> None:
    """Write `content` in place of the file `path` after a check that torch.load admits all its types."""
    with replacing(path) as file:
        torch.save(content, file)
        file.flush()
        # With mmap the tensors' data stays on the disk: only names and types are read.
        torch.load(file.name, map_location="meta", weights_only=True, mmap=True)


def _read_undamaged(path: str) -> Any:
    """Read a checkpoint and compare the checksums of its tensors, which torch.load does not compare."""
    if not os.path.exists(path):
        raise InputError(f"The last checkpoint, '{path}', does not exist.")
    content = read_checkpoint(path)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                name = archive.testzip()
                damage = name and f"wrong checksum of {name}"
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            damage = str(error)
        if damage:
            raise InputError(f"The file '{path}' is damaged ({damage}).")
    return content
