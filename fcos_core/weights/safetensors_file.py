"""Read and write weights in .safetensors files."""

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from torch import Tensor


def is_safetensors(path: str) -> bool:
    """Return True if the file's name ends in .safetensors, or its content begins as that of such a file."""
    if path.lower().endswith(".safetensors"):
        return True
    with open(path, "rb") as file:
        return begins_as_safetensors(file.read(9), os.path.getsize(path))


def begins_as_safetensors(start: bytes, size: int) -> bool:
    """Return True if a file of `size` bytes that begins with `start` has the length of a JSON header, and a header."""
    return 0 < int.from_bytes(start[:8], "little") <= size - 8 and start[8:9] == b"{"


def read_safetensors(path: str) -> dict[str, Any]:
    """Read a file as {"model": key to tensor, on the CPU, and its metadata}; the tensors' data stays on the disk.

    Raise nearly any exception if the file is damaged.
    """
    from safetensors.torch import load_file

    return {**read_metadata(path), "model": load_file(path)}


def read_metadata(path: str) -> dict[str, Any]:
    """Read the metadata of a file, name to text; a text that is a JSON list becomes a list."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata: dict[str, Any] = dict(file.metadata() or {})
    for name, text in metadata.items():
        if text.startswith("["):
            with contextlib.suppress(ValueError, RecursionError):  # such as a text of another program
                metadata[name] = json.loads(text)
    return metadata


def write_safetensors(state: Mapping[str, Tensor], metadata: Mapping[str, Any], file: BinaryIO) -> None:
    """Write tensors, and metadata of texts and lists of texts, to an open file."""
    from safetensors.torch import save

    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    # The format has no views: tensors that share memory are written one by one.
    file.write(save({key: value.detach().clone().contiguous() for key, value in state.items()}, texts))
