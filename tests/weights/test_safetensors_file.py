"""Weights in .safetensors files, whole, damaged and hostile."""

import json
import struct

import pytest
import torch

from fcos_core.errors import InputError
from fcos_core.weights.checkpoint_meta import CheckpointMeta, read_meta
from fcos_core.weights.safetensors_file import write_safetensors
from fcos_core.weights.state_dict_file import load_averaged_state_dict_file, load_state_dict_file, read_checkpoint

STATE = {"module.a.weight": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(7, dtype=torch.int64)}
HEADER = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def write(path, metadata=None, state=STATE):
    with path.open("wb") as file:
        write_safetensors(state, metadata or {}, file)
    return str(path)


def raw(header, data=b"1234", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pkl", "w.SAFETENSORS"])
def test_a_file_under_any_name(tmp_path, name):
    state = load_state_dict_file(write(tmp_path / name))
    assert {key: value.tolist() for key, value in state.items()} == {"a.weight": [[0, 3], [1, 4], [2, 5]], "b": 7}
    assert state["b"].dtype == torch.int64


def test_tensors_that_share_memory(tmp_path):
    shared = torch.arange(3.0)
    state = load_state_dict_file(write(tmp_path / "w.safetensors", state={"a": shared, "b": shared[1:]}))
    assert state["a"].tolist() == [0, 1, 2] and state["b"].tolist() == [1, 2]


def test_metadata(tmp_path):
    meta = {"config": "MODEL:\n  DEVICE: cpu\n", "categories": ["[a]", "b"], "conventions": "x"}
    path = write(tmp_path / "w.safetensors", meta)
    assert read_meta(path) == CheckpointMeta(**meta)
    assert read_checkpoint(path).keys() == {"model", *meta}


@pytest.mark.parametrize("text", ["x", "[1]", "[", "[" * 100000, '{"a": 1}'])
def test_metadata_of_other_programs(tmp_path, text):
    path = tmp_path / "w.safetensors"
    path.write_bytes(raw({"__metadata__": {"categories": text, "format": "pt"}, **HEADER}))
    assert read_meta(str(path)) == CheckpointMeta()
    assert list(load_state_dict_file(str(path))) == ["a"]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    "content",
    [
        raw(HEADER, b"123"),
        raw(HEADER, b"12345"),
        raw({"a": {**HEADER["a"], "data_offsets": [0, 8]}}),
        raw({"a": {**HEADER["a"], "data_offsets": [4, 0]}}),
        raw({"a": {**HEADER["a"], "shape": [2**62, 4]}}),
        raw({"a": {**HEADER["a"], "shape": [-1]}}),
        raw({"a": {**HEADER["a"], "dtype": "F33"}}),
        raw({**HEADER, "b": HEADER["a"]}),
        raw(b'{"a": ' + b"[" * 100000),
        raw(b"{" + b"\xff" * 20),
        raw({}),
        raw(HEADER, length=2**40),
        raw(HEADER, length=9),
        b"12345",
    ],
)
def test_a_damaged_or_hostile_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    damaged = r"w\.\w+' (is damaged or is not a weights file|holds no state dict)"
    with pytest.raises(InputError, match=damaged):
        load_state_dict_file(str(path))
    if name == "w.safetensors":
        with pytest.raises(InputError, match=damaged):
            read_meta(str(path))


def test_what_a_server_sends_in_its_place(tmp_path):
    path = tmp_path / "w.safetensors"
    for content, sentence in (
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"w\.safetensors' is {sentence}"):
            load_state_dict_file(str(path))


def test_a_length_that_another_format_begins_with(tmp_path):
    # The length 0x120708 begins as an ONNX model does.
    path = tmp_path / "w.safetensors"
    path.write_bytes(raw(json.dumps(HEADER).encode().ljust(0x120708)))
    assert list(load_state_dict_file(str(path))) == ["a"]


def test_it_holds_no_average(tmp_path):
    with pytest.raises(InputError, match="holds no average of weights"):
        load_averaged_state_dict_file(write(tmp_path / "w.safetensors"))
