"""Read weights from .pth, .safetensors and Caffe2 .pkl files, URLs, and names such as zoo://NAME."""

import os
import re
import stat
import zipfile
from collections.abc import Mapping
from typing import Any, NoReturn

import torch

from fcos_core.config.paths_catalog import weights_url
from fcos_core.errors import InputError
from fcos_core.utils.text import without_secrets
from fcos_core.weights import hub, zoo
from fcos_core.weights.caffe2_names import key_of_blob
from fcos_core.weights.caffe2_pickle import RUNS_CODE, PickledArray, read_blobs
from fcos_core.weights.download import download
from fcos_core.weights.file_kind import START, foreign_kind
from fcos_core.weights.pickle_check import RefusedPickle, check_torch_file
from fcos_core.weights.safetensors_file import is_safetensors, read_safetensors


def load_state_dict_file(source: str) -> dict[str, torch.Tensor]:
    """Load the state dict of `source` (file, http(s):// URL or name), on the CPU, in the file's dtypes.

    A file whose name ends in .pkl is a pickle of arrays, unless torch.save wrote it; Caffe2's blobs get the keys of the
    ResNet body. Any other file is a .safetensors file or PyTorch's: a state dict, alone or under "model" or
    "state_dict", its keys with or without "module.". No code that a file names is run. Raise InputError if `source`
    cannot be found or downloaded, is damaged, of another program, out of proportion to its size, holds no state dict,
    or names code to run.
    """
    path = find_weights(source)
    if path.lower().endswith(".pkl"):
        return _read_caffe2(path)
    return state_dict_of(read_checkpoint(path), path)


def load_averaged_state_dict_file(source: str) -> dict[str, torch.Tensor]:
    """Load the moving average of the weights ("ema") from the training state `source`, a file, URL or name.

    Raise InputError as `load_state_dict_file` does, or if the file holds no average.
    """
    path = find_weights(source)
    content = read_checkpoint(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("ema"), Mapping):
        raise InputError(
            f"The file '{path}' holds no average of weights: train with SOLVER.EMA_DECAY above 0, or set "
            "TEST.USE_EMA False."
        )
    return state_dict_of({key: value for key, value in content["ema"].items() if key != "n_averaged"}, path)


def find_weights(source: str) -> str:
    """Return the path of `source`, downloaded once if it is a URL or a catalog://, zoo:// or hf:// name.

    Raise InputError if the name is unknown or the download fails.
    """
    if source.startswith(hub.SCHEME):
        return hub.download_from_hub(source)
    if source.startswith("catalog://"):
        source = weights_url(source)
    elif source.startswith(zoo.SCHEME):
        source = zoo.zoo_url(source)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", source)
    if not scheme:
        return source
    if scheme[1].lower() not in ("http", "https"):
        raise InputError(
            f"'{without_secrets(source)}': {scheme[1]}: is not downloaded, only http://, https://, zoo:// and hf:// "
            "are. Download the file yourself and name it in MODEL.WEIGHT."
        )
    return download(source)


def read_checkpoint(path: str) -> Any:
    """Read a PyTorch or .safetensors file of tensors and plain Python values, on the CPU.

    Raise InputError if the file is missing, empty, damaged, of another kind, out of proportion to its size, or names
    code to run.
    """
    _check_file(path)
    try:
        if is_safetensors(path):
            return read_safetensors(path)
        check_torch_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # torch raises nearly any exception on a damaged file, from KeyError to OSError.
    except Exception as error:
        _refuse(path, error)


def state_dict_of(content: Any, path: str) -> dict[str, torch.Tensor]:
    """Find the state dict in a file's content, without "module." in its keys; raise InputError if there is none."""
    state = content
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            state = content[key]
            break
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())
    ):
        raise InputError(
            f"The file '{path}' holds no state dict: expected named tensors, alone or under 'model' or "
            f"'state_dict'; found {_describe(state)}."
        )
    return {re.sub(r"^(module\.)+", "", key): value for key, value in state.items()}


def reason_of(error: Exception) -> str:
    """Return in one line why a file could not be read; a name that torch.load refused comes before its message."""
    text = str(error)
    if isinstance(error, RefusedPickle):
        return text
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f"it names '{refused[1]}', {RUNS_CODE}"
    # torch's message begins with the advice to switch the protection off.
    text = (text.partition("WeightsUnpickler error: ")[2] or text).strip()
    sentence = text.partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__


def _read_caffe2(path: str) -> dict[str, torch.Tensor]:
    _check_file(path)
    if zipfile.is_zipfile(path) or is_safetensors(path):
        return state_dict_of(read_checkpoint(path), path)
    state = {}
    left = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            blobs = read_blobs(file)
        for blob, value in blobs.items():
            key = key_of_blob(blob)
            if key is None:
                continue
            if not isinstance(value, PickledArray):
                raise RefusedPickle(f"its blob '{blob}' is not an array")
            array = value.to_numpy()
            left -= array.nbytes
            if left < 0:
                raise RefusedPickle("its blobs use the same bytes again and again")
            state[key] = torch.from_numpy(array)
    # pickle, too, raises nearly any exception on a damaged file.
    except Exception as error:
        _refuse(path, error)
    return state


def _check_file(path: str) -> None:
    if os.path.isdir(path):
        raise InputError(f"'{path}' is a folder; name a weights file in it.")
    if not os.path.exists(path):
        raise InputError(
            f"The weights file '{path}' does not exist (absolute path: {os.path.abspath(path)}); check the path, "
            "or give a URL or a zoo:// name."
        )
    try:
        # Opening a pipe would wait for ever.
        is_file = stat.S_ISREG(os.stat(path).st_mode)
        start = b""
        if is_file:
            with open(path, "rb") as file:
                start = file.read(START)
    except OSError as error:
        raise InputError(f"The weights file '{path}' cannot be read: {error.strerror}.") from error
    if not is_file:
        raise InputError(f"'{path}' is a pipe or a device; name a weights file.")
    if not start:
        raise InputError(f"The weights file '{path}' is empty; delete it and download or save it again.")
    if kind := foreign_kind(path, start):
        raise InputError(f"The weights file '{path}' is {kind}.")


def _refuse(path: str, error: Exception) -> NoReturn:
    reason = reason_of(error)
    if RUNS_CODE in reason:
        raise InputError(
            f"The file '{path}' is refused: {reason}. Weights are tensors and plain values; ask its owner to save "
            "the state dict alone, with torch.save({'model': model.state_dict()}, FILE)."
        ) from error
    # torch raises a RuntimeError, Python a MemoryError.
    if isinstance(error, MemoryError) or "allocate memory" in reason:
        raise InputError(
            f"The file '{path}' needs more memory than is free here; free some, or use a file of smaller weights."
        ) from error
    raise InputError(
        f"The file '{path}' is damaged or is not a weights file ({reason}); delete it and download or copy it again."
    ) from error


def _describe(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    others = [str(k) for k, v in value.items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))]
    return f"other values, e.g. {', '.join(others[:3])}" if others else "an empty dict"
