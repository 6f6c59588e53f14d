"""Read what a checkpoint says about the run that wrote it."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fcos_core.weights.pickle_check import check_torch_file
from fcos_core.weights.safetensors_file import is_safetensors, read_metadata
from fcos_core.weights.state_dict_file import find_weights, read_checkpoint

# Keys of a checkpoint that describe its run; they are not returned with the values that a script saves.
CONFIG, CATEGORIES, CONVENTIONS = "config", "categories", "conventions"


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint says about its run; None for what it does not say.

    Attributes:
        config: YAML text of the run's config.
        categories: name of each label, from label 1 on.
        conventions: name of the conventions that weights of another framework were trained under.
    """

    config: str | None = None
    categories: list[str] | None = None
    conventions: str | None = None


def meta_of(content: Any) -> CheckpointMeta:
    """Find the description in a checkpoint's content; a value of another type, as other programs write it, is none."""
    if not isinstance(content, Mapping):
        return CheckpointMeta()
    texts = (content.get(key) for key in (CONFIG, CONVENTIONS))
    config, conventions = (text if isinstance(text, str) else None for text in texts)
    return CheckpointMeta(config, _names_in(content), conventions)


def _names_in(content: Mapping[str, Any]) -> list[str] | None:
    """Return the class names that this project has written, or mmdetection 2 or 3.

    Those of COCO in a file of mmdetection are left out: its order is known, and some versions write other names.
    """
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    for names in (content.get(CATEGORIES), meta.get("CLASSES"), dataset.get("classes")):
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            is_coco = names is not content.get(CATEGORIES) and len(names) == 80 and names[0] == "person"
            return None if is_coco else list(names)
    return None


def read_meta(source: str) -> CheckpointMeta:
    """Read the description in `source`, a weights file, URL or name, without its tensors.

    Only .safetensors files and those that `torch.save` writes today can hold one. Raise InputError if `source` cannot
    be found or read.
    """
    path = find_weights(source)
    try:
        if os.path.isfile(path) and is_safetensors(path):
            return meta_of(read_metadata(path))
        if os.path.isfile(path) and not zipfile.is_zipfile(path):
            return CheckpointMeta()
        check_torch_file(path)
        # With mmap the tensors' data stays on the disk.
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # torch raises nearly any on a damaged file; reading it as weights says what is wrong
        content = read_checkpoint(path)
    return meta_of(content)
