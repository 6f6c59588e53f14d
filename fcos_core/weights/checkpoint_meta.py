"""Read what a checkpoint says about the run that wrote it."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fcos_core.weights.pickle_check import check_torch_file
from fcos_core.weights.state_dict_file import find_weights, read_checkpoint

# Keys of a checkpoint that describe its run; they are not returned with the values that a script saves.
CONFIG, CATEGORIES = "config", "categories"


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint says about its run; None for what it does not say.

    Attributes:
        config: YAML text of the run's config.
        categories: name of each label, from label 1 on.
    """

    config: str | None = None
    categories: list[str] | None = None


def meta_of(content: Any) -> CheckpointMeta:
    """Find the description in a checkpoint's content; a value of another type, as other programs write it, is none."""
    if not isinstance(content, Mapping):
        return CheckpointMeta()
    config, names = content.get(CONFIG), content.get(CATEGORIES)
    named = isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    return CheckpointMeta(config if isinstance(config, str) else None, names if named else None)


def read_meta(source: str) -> CheckpointMeta:
    """Read the description in `source`, a weights file, URL or catalog:// name, without its tensors.

    Only files that `torch.save` writes today can hold one. Raise InputError if `source` cannot be found or read.
    """
    path = find_weights(source)
    if os.path.isfile(path) and not zipfile.is_zipfile(path):
        return CheckpointMeta()
    try:
        check_torch_file(path)
        # With mmap the tensors' data stays on the disk.
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # torch raises nearly any on a damaged file; reading it as weights says what is wrong
        content = read_checkpoint(path)
    return meta_of(content)
