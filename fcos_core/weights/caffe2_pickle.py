"""Reading Caffe2 pickles of numpy arrays without running anything that they name."""

import codecs
import math
import pickle
import re
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np

# How errors speak of a name in a file that no tensor or array needs.
RUNS_CODE = "which could run code"
_NUMERIC = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


class RefusedPickle(pickle.UnpicklingError):
    """The content of a pickle is not admitted; the message is half a sentence, whose subject is the file."""


def read_blobs(file: BinaryIO) -> dict[str, Any]:
    """The pickled dict in `file`, or what it holds under "blobs".

    Arrays come as `PickledArray`, which holds inert data until `to_numpy` is called.

    Raises:
        RefusedPickle: a name other than numpy's arrays and OrderedDict stands in the pickle, or its
            content is not a dict of named blobs.
        Exception: whatever pickle raises on damaged data.
    """
    content = _Unpickler(file, encoding="latin1").load()
    if isinstance(content, dict) and isinstance(content.get("blobs"), dict):
        content = content["blobs"]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise RefusedPickle("it does not hold a dict of named blobs")
    return content


class PickledArray:
    """An array as pickled; none of its content reaches numpy before `to_numpy` has looked at its type."""

    def __init__(self, *_: Any) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # numpy writes (version, shape, dtype, column-major order, bytes).
        self._state = state[-4:]

    def to_numpy(self) -> np.ndarray:
        """The array, writable, in native byte order.

        Raises:
            RefusedPickle: it does not hold numbers, or not as many as its shape says.
        """
        if len(self._state) != 4:
            raise RefusedPickle("it is an array without content")
        shape, dtype, column_major, raw = self._state
        if isinstance(raw, str):  # bytes that Python 2 wrote
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
        self._byte_order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._byte_order = state[1]

    def to_numpy(self) -> np.dtype | None:
        if not isinstance(self._spec, str) or not _NUMERIC.fullmatch(self._spec):
            return None
        dtype = np.dtype(self._spec)
        return dtype.newbyteorder(self._byte_order) if self._byte_order in ("<", ">") else dtype


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
