"""Recognize files that are no weights, or weights of another program, from their content."""

import json
import os
import re
import zipfile

from fcos_core.weights.safetensors_file import begins_as_safetensors

# Bytes at the start of a file that the functions below look at.
START = 1024

_GET_LFS = "run `git lfs pull` in its repository, or download the file itself by its direct link"
_TO_PTH = "torch.save({'model': STATE_DICT}, 'FILE.pth')"
_SERVER_TEXT = re.compile(rb"(<!--.*?-->|\s)*<(!doctype|html|head|body|\?xml|error)\b", re.DOTALL)
# Start of the content: what the file is, and what to do.
_KINDS = [
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file of Keras or TensorFlow", "convert it to PyTorch"),
    (rb"\x08[\x01-\x14]\x12", "an ONNX model", "name the PyTorch file that it was exported from"),
    (rb"\x93NUMPY", "a NumPy array", f"save named tensors with {_TO_PTH}"),
    (rb"(all_)?model_checkpoint_path", "a TensorFlow checkpoint", "convert it to PyTorch"),
    (rb"\x1f\x8b", "compressed with gzip", "unpack it with gunzip, or with tar -xzf"),
    (rb"BZh[1-9]", "compressed with bzip2", "unpack it with bunzip2"),
    (rb"\xfd7zXZ\0", "compressed with xz", "unpack it with unxz"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
    (rb"7z\xbc\xaf\x27\x1c|Rar!", "a 7z or rar archive", "unpack it"),
    (rb".{257}ustar", "a tar archive", "unpack it with tar -xf"),
]
# A name in a zip archive: the same.
_ARCHIVES = [
    (r".*\.npy", "an archive of NumPy arrays", f"save named tensors with {_TO_PTH}"),
    (r".*/constants\.pkl", "a TorchScript program", "save torch.jit.load(FILE).state_dict() with torch.save"),
    (r".*/archive_format", "a program of torch.export", "save torch.export.load(FILE).state_dict with torch.save"),
]


def never_weights(start: bytes) -> str:
    """Say what comes from a server in the place of a file: "a web page, ..."; "" if `start` may begin a file."""
    if not start:
        return "an empty file"
    if _SERVER_TEXT.match(start.removeprefix(b"\xef\xbb\xbf").lower()):
        return "a web page, not weights; download the file itself by its direct link"
    if re.match(rb"version https?://(git-lfs|hawser)\.github\.com/", start):
        return f"a Git LFS pointer, which stands for the weights: {_GET_LFS}"
    try:
        return f"a JSON text, {json.loads(start)!r:.80}, not weights" if start.startswith((b"{", b"[")) else ""
    except ValueError:
        return ""


def foreign_kind(path: str, start: bytes) -> str:
    """Say what the file is and how to get weights from it; "" if it may be PyTorch's, a .safetensors or a pickle.

    Args:
        path: the file.
        start: its first `START` bytes.
    """
    if wrong := never_weights(start):
        return wrong
    size = os.path.getsize(path)
    if begins_as_safetensors(start, size):
        return ""
    for pattern, kind, advice in _KINDS:
        if re.match(pattern, start, re.DOTALL):
            return f"{kind}; {advice}"
    if _is_tensorflow(path, size):
        return "a TensorFlow checkpoint; convert it to PyTorch"
    return _kind_of_archive(path) if start.startswith(b"PK") and zipfile.is_zipfile(path) else ""


def _is_tensorflow(path: str, size: int) -> bool:
    if re.search(r"\.data-\d{5}-of-\d{5}$", path):
        return True
    with open(path, "rb") as file:
        file.seek(max(size - 8, 0))
        # The last bytes of a table of LevelDB, the format of a checkpoint's index.
        return file.read() == bytes.fromhex("57fb808b247547db")


def _kind_of_archive(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""
    for pattern, kind, advice in _ARCHIVES:
        if any(re.fullmatch(pattern, name) for name in names):
            return f"{kind}; {advice}"
    is_torch = any(re.fullmatch(r"(.*/)?data\.pkl", name) for name in names)
    return "" if is_torch else "a zip archive of other files; unpack it with unzip and name the weights file in it"
