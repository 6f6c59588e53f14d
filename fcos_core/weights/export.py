"""Write weights alone, under this project's names, as a .pth or a .safetensors file."""

import dataclasses
import os
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from fcos_core.errors import InputError
from fcos_core.utils.files import replacing
from fcos_core.weights.checkpoint_meta import CheckpointMeta, read_meta
from fcos_core.weights.importing import conventions_of, recognize
from fcos_core.weights.safetensors_file import write_safetensors
from fcos_core.weights.state_dict_file import find_weights, load_averaged_state_dict_file, load_state_dict_file
from fcos_core.weights.weight_matching import BODY, is_of_classifier

# Beginnings of this project's names: of a detector, and of the bodies without their prefix.
_OWN_NAMES = ("backbone.", "rpn.", "stem.", "conv1.", "layer1.", "stage2.", "features.")


def convert_weights(source: str, out: str) -> str:
    """Write the weights of a framework under this project's names; return a line that says what was done.

    Args:
        source: a file, a URL or a name, as MODEL.WEIGHT takes it.
        out: a new file, FILE.pth or FILE.safetensors. A class layer that only ImageNet needs is left out; the config
            and the names of the classes go with the weights, and so does the name of their conventions.

    Raises:
        InputError: `source` cannot be read or is of no framework that is known, or `out` exists or cannot be written.
    """
    _check_new(out)
    path = find_weights(source)
    state, meta = load_state_dict_file(path), read_meta(path)
    imported = recognize(state, source)
    if imported:
        state = imported.state
    elif not any(key.startswith(_OWN_NAMES) for key in state):
        raise InputError(
            f"'{source}' is of no framework that is known here: its keys, such as {next(iter(state))}, are neither "
            "those of mmdetection's, torchvision's or AdelaiDet's FCOS nor those of an ImageNet HRNet or ResNet."
        )
    is_body = not any(key.startswith(("backbone.", "rpn.")) for key in state)
    prefix = BODY if is_body else ""
    state = {prefix + key: value for key, value in state.items() if not (is_body and is_of_classifier(key))}
    meta = dataclasses.replace(meta, conventions=conventions_of(source, meta, imported) or None)
    _write(state, meta, out)
    kind = imported.framework if imported else "a file with this project's names"
    advice = f"; they were trained under the conventions {meta.conventions}" if meta.conventions else ""
    return f"{source} is {kind}: wrote {len(state)} tensors to {out}{advice}."


def strip_checkpoint(source: str, out: str, averaged: bool = False) -> str:
    """Write the weights of a training state without its optimizer, schedule and scaler; return a line on the sizes.

    Args:
        source: as for `convert_weights`; the names of its tensors stay.
        out: as for `convert_weights`.
        averaged: write the moving average of the weights ("ema") in place of the last weights.

    Raises:
        InputError: as for `convert_weights`, or there is no average.
    """
    _check_new(out)
    path = find_weights(source)
    state = load_averaged_state_dict_file(path) if averaged else load_state_dict_file(path)
    meta = read_meta(path)
    meta = dataclasses.replace(meta, conventions=conventions_of(source, meta, None) or None)
    _write(state, meta, out)
    return f"Wrote {len(state)} tensors of {source} to {out}, {os.path.getsize(out) / 2**20:.1f} MiB."


def _check_new(out: str) -> None:
    if not out.lower().endswith((".pth", ".safetensors")):
        raise InputError(f"'{out}' must end in .pth or .safetensors, which says how to write it.")
    if os.path.lexists(out):
        raise InputError(f"'{out}' exists: name a new file, or delete this one.")
    folder = os.path.dirname(out)
    if folder and not os.path.isdir(folder):
        raise InputError(f"'{out}' cannot be written: '{folder}' is not a folder. Make it, or name another one.")


def _write(state: Mapping[str, Tensor], meta: CheckpointMeta, out: str) -> None:
    # A tensor may be a part of a larger one, all of which torch.save would write.
    state = {key: value.detach().clone() for key, value in state.items()}
    description = {name: value for name, value in dataclasses.asdict(meta).items() if value}
    try:
        with replacing(out) as file:
            _write_to(file, state, description, out)
    # torch.save raises a RuntimeError for a full disk.
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise InputError(f"'{out}' cannot be written: {cause}. Free disk space, or name another file.") from error


def _write_to(file: BinaryIO, state: Mapping[str, Tensor], description: Mapping[str, object], out: str) -> None:
    if out.lower().endswith(".safetensors"):
        write_safetensors(state, description, file)
    else:
        torch.save({"model": state, **description}, file)
