"""Read Caffe2 pickles of numpy arrays without running any code that they name."""

import codecs
import math
import os
import pickle
import re
from collections import OrderedDict
from typing import Any, BinaryIO, Literal

import numpy as np

from fcos_core.weights.pickle_check import RefusedPickle, check_pickle

# Ending of a message about a name in a file that is neither a tensor's nor an array's.
RUNS_CODE = "which could run code"
_NUMERIC = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


def read_blobs(file: BinaryIO) -> dict[str, Any]:
    """Read the pickled dict in `file`, or the dict under its key "blobs" or "model": blob name to value.

    Arrays are `PickledArray`s. Raise RefusedPickle if the pickle names anything but numpy's arrays and OrderedDict, or
    is no dict of named blobs, or claims more than the file holds. On damaged data pickle may raise any other exception.
    """
    check_pickle(file, os.fstat(file.fileno()).st_size)
    file.seek(0)
    content = _Unpickler(file, encoding="latin1").load()
    for key in ("blobs", "model"):  # of Caffe2 and of detectron2
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise RefusedPickle("it does not hold a dict of named blobs")
    return content


class PickledArray:
    """Content of a pickled array, which numpy does not see before `to_numpy` has checked its type."""

    def __init__(self, *_: Any) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # numpy writes (version, shape, dtype, column-major order, bytes).
        self._state = state[-4:]

    def to_numpy(self) -> np.ndarray:
        """Make the array, writable and in native byte order; raise RefusedPickle if type or size is wrong."""
        if len(self._state) != 4:
            raise RefusedPickle("it is an array without content")
        shape, dtype, column_major, raw = self._state
        if isinstance(raw, str):  # Python 2 wrote bytes as a string
            raw = raw.encode("latin1")
        numeric = dtype.to_numpy() if isinstance(dtype, _PickledDtype) else None
        if numeric is None or not isinstance(raw, (bytes, bytearray)):
            raise RefusedPickle("it is an array of something other than numbers")
        if len(raw) != math.prod(shape) * numeric.itemsize:
            raise RefusedPickle(f"it has {len(raw)} bytes for shape {shape} of {numeric}")
        array = np.frombuffer(raw, numeric).reshape(shape, order="F" if column_major else "C")
        return array.astype(numeric.newbyteorder("="), order="C")


class _PickledDtype:
    def __init__(self, spec: Any, *_: Any) -> None:
        self._spec = spec
        self._byte_order: Literal["=", "<", ">"] = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self._byte_order = state[1]

    def to_numpy(self) -> np.dtype | None:
        """Make the dtype; None if it is not numeric."""
        if not isinstance(self._spec, str) or not _NUMERIC.fullmatch(self._spec):
            return None
        dtype = np.dtype(self._spec)
        return dtype if self._byte_order == "=" else dtype.newbyteorder(self._byte_order)


def _from_buffer(raw: bytes, dtype: Any, shape: tuple[int, ...], order: str) -> PickledArray:
    array = PickledArray()
    array.__setstate__((shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: Any, raw: bytes) -> PickledArray:
    return _from_buffer(raw, dtype, (), "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise RefusedPickle(f"it asks for the codec '{encoding}', which no array needs")
    return codecs.latin_1_encode(text)[0]


# Inert stand-ins for the names that a pickle of arrays needs.
_ADMITTED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _PickledDtype,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", PickledArray),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise RefusedPickle(f"it names '{module}.{name}', {RUNS_CODE}")
        return _ADMITTED[module, name]
