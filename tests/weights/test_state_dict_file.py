import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from fcos_core.errors import InputError
from fcos_core.weights.caffe2_names import key_of_blob
from fcos_core.weights.state_dict_file import load_state_dict_file

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([1, 2])}


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def assert_same(state, expected):
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].dtype == value.dtype
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "iteration": 7, "optimizer": {"state": {}}},
        lambda s: {"state_dict": s, "epoch": 1},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"module.module.{k}": v for k, v in s.items()},
    ],
)
def test_pth_of_every_wrapping(tmp_path, wrap, zipped):
    path = str(tmp_path / "w.pth")
    torch.save(wrap(dict(STATE)), path, _use_new_zipfile_serialization=zipped)
    assert_same(load_state_dict_file(path), STATE)


@pytest.mark.parametrize("zipped", [True, False])
def test_pth_that_runs_code_is_refused(tmp_path, zipped):
    marker, path = tmp_path / "marker", str(tmp_path / "w.pth")
    torch.save({"model": dict(STATE), "x": RunsCode(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"w\.pth' is refused: it names 'posix\.mkdir', which could run code"):
        load_state_dict_file(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pkl_that_runs_code_is_refused(tmp_path, protocol):
    marker, path = tmp_path / "marker", tmp_path / "w.pkl"
    data = pickle.dumps({"blobs": {"conv1_w": np.zeros(2)}, "x": RunsCode(marker)}, protocol=protocol)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"w\.pkl' is refused: it names 'posix\.mkdir', which could run code"):
        load_state_dict_file(str(path))
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("builtins", "eval"), ("numpy", "load"), ("numpy.core.multiarray", "fromfile"), ("_codecs", "lookup")],
)
def test_pkl_admits_no_other_name_even_unused(tmp_path, module, name):
    path = tmp_path / "w.pkl"
    path.write_bytes(f"c{module}\n{name}\n.".encode())
    with pytest.raises(InputError, match=rf"it names '{module}\.{name}'"):
        load_state_dict_file(str(path))


def test_pkl_encode_admits_latin1_alone(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(InputError, match="the codec 'rot13'"):
        load_state_dict_file(str(path))


def test_pkl_object_arrays_never_reach_numpy(tmp_path):
    path, marker = tmp_path / "w.pkl", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"conv1_w": np.array([[1], "text"], dtype=object)}))
    with pytest.raises(InputError, match="other than numbers"):
        load_state_dict_file(str(path))
    path.write_bytes(pickle.dumps({"conv1_w": np.array([RunsCode(marker)], dtype=object)}))
    with pytest.raises(InputError, match=r"posix\.mkdir"):
        load_state_dict_file(str(path))
    assert not marker.exists()


def test_pkl_object_type_disguised_as_raw_bytes(tmp_path):
    # A dtype 'O' whose state clears its flags would make numpy take eight bytes of the file for a pointer.
    data = (
        b"(dS'conv1_w'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
        b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'AAAAAAAA'\ntbs."
    )
    path = tmp_path / "w.pkl"
    path.write_bytes(data)
    with pytest.raises(InputError, match="other than numbers"):
        load_state_dict_file(str(path))


def test_pkl_shape_that_its_bytes_do_not_fill(tmp_path):
    data = pickle.dumps({"conv1_w": np.zeros((3, 5), np.float32)}, protocol=0)
    path = tmp_path / "w.pkl"
    path.write_bytes(data.replace(b"I3\nI5\n", b"I3\nI9\n"))
    with pytest.raises(InputError, match="60 bytes for shape"):
        load_state_dict_file(str(path))


@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pkl_numbers_come_back(tmp_path, protocol, core):
    rng = np.random.default_rng(0)
    arrays = {
        "plain": rng.normal(size=(2, 3, 4)).astype(np.float32),
        "column_major": np.asfortranarray(rng.normal(size=(3, 5))),
        "big_endian": rng.normal(size=4).astype(">f4"),
        "half": rng.normal(size=4).astype(np.float16),
        "integers": rng.integers(-9, 9, size=7),
        "one": np.float32(1.5),
    }
    data = pickle.dumps({"blobs": arrays}, protocol=protocol)
    # In protocol 4 and above a name is preceded by its length and cannot be swapped so simply.
    if protocol < 4:
        assert b"numpy._core" in data
        data = data.replace(b"numpy._core", core)
    path = tmp_path / "w.pkl"
    path.write_bytes(data)
    state = load_state_dict_file(str(path))
    assert_same(
        state,
        {
            k: torch.from_numpy(v.astype(v.dtype.newbyteorder("=")))
            for k, v in ((k, np.asarray(v)) for k, v in arrays.items())
        },
    )


def test_pkl_as_python_2_wrote_it(tmp_path):
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    data = (
        b"(dS'res2_0_branch1_w'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt"
        b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nT"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tbs."
    )
    path = tmp_path / "w.pkl"
    path.write_bytes(data)
    assert_same(load_state_dict_file(str(path)), {"layer1.0.downsample.0.weight": torch.tensor([1.5, -2.0])})


@pytest.mark.parametrize(
    ("blob", "key"),
    [
        ("conv1_w", "stem.conv1.weight"),
        ("res_conv1_bn_s", "stem.bn1.weight"),
        ("res_conv1_bn_b", "stem.bn1.bias"),
        ("res2_0_branch2a_w", "layer1.0.conv1.weight"),
        ("res2_0_branch2a_bn_s", "layer1.0.bn1.weight"),
        ("res3_3_branch2b_w", "layer2.3.conv2.weight"),
        ("res4_22_branch2c_bn_b", "layer3.22.bn3.bias"),
        ("res5_0_branch1_w", "layer4.0.downsample.0.weight"),
        ("res5_0_branch1_bn_s", "layer4.0.downsample.1.weight"),
        ("res5_0_branch1_bn_b", "layer4.0.downsample.1.bias"),
        ("res5_0_branch1_w_momentum", None),
        ("weight_order", None),
        ("fc1000_w", None),
        ("pred_b", None),
        ("conv1_b", None),
        ("res2_0_branch2a_b", None),
        ("something_else", "something_else"),
    ],
)
def test_blob_names(blob, key):
    assert key_of_blob(blob) == key


def test_pkl_unwanted_blobs_may_be_anything(tmp_path):
    path = tmp_path / "w.pkl"
    blobs = {"weight_order": ["a"], "fc1000_w": np.array(["x"], object), "conv1_w": np.ones(2, np.float32)}
    path.write_bytes(pickle.dumps(blobs))
    assert_same(load_state_dict_file(str(path)), {"stem.conv1.weight": torch.ones(2)})


def damaged_files():
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"a": torch.zeros(1000)}, buffer, _use_new_zipfile_serialization=zipped)
        whole = buffer.getvalue()
        for size in (3, 64, len(whole) // 2, len(whole) - 10):
            yield pytest.param("w.pth", whole[:size], id=f"pth-{'zip' if zipped else 'old'}-{size}")
    pickled = pickle.dumps({"conv1_w": np.zeros(1000)})
    for size in (3, len(pickled) // 2, len(pickled) - 1):
        yield pytest.param("w.pkl", pickled[:size], id=f"pkl-{size}")
    for name in ("w.pth", "w.pkl"):
        yield pytest.param(name, b"once upon a time", id=f"text-{name}")


@pytest.mark.parametrize(("name", "data"), list(damaged_files()))
def test_damaged_files(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}' is damaged or is not a weights file \(.*\); delete it"):
        load_state_dict_file(str(path))


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_raise_an_input_error_or_give_tensors(tmp_path, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(pickle.dumps({"conv1_w": np.zeros(3, np.float32)}, protocol=2))
    for position in rng.integers(0, len(data), 3):
        data[position] = rng.integers(256)
    path = tmp_path / "w.pkl"
    path.write_bytes(data)
    try:
        state = load_state_dict_file(str(path))
    except InputError:
        return
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize("name", ["w.pth", "w.pkl"])
def test_missing_empty_folder_and_web_page(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=rf"{name}' does not exist"):
        load_state_dict_file(str(path))
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}' is empty"):
        load_state_dict_file(str(path))
    path.write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(InputError, match="is a web page"):
        load_state_dict_file(str(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=rf"{name}' is a folder"):
        load_state_dict_file(str(path))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "a list"),
        ({"epoch": 3}, "e.g. epoch"),
        ({"model": {}}, "an empty dict"),
        ({1: torch.ones(1)}, "e.g. 1"),
    ],
)
def test_pth_without_a_state_dict(tmp_path, content, found):
    path = str(tmp_path / "w.pth")
    torch.save(content, path)
    with pytest.raises(InputError, match=f"holds no state dict.*{found}"):
        load_state_dict_file(path)


@pytest.mark.parametrize("content", [[1], {1: np.zeros(1)}, {"conv1_w": 3.0}])
def test_pkl_without_blobs(tmp_path, content):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"w\.pkl"):
        load_state_dict_file(str(path))


def test_catalog_names(monkeypatch, tmp_path):
    asked = []

    def fake_download(url):
        asked.append(url)
        path = tmp_path / os.path.basename(url)
        path.write_bytes(pickle.dumps({"conv1_w": np.ones(1, np.float32)}))
        return str(path)

    monkeypatch.setattr("fcos_core.weights.state_dict_file.download", fake_download)
    state = load_state_dict_file("catalog://ImageNetPretrained/MSRA/R-50")
    assert list(state) == ["stem.conv1.weight"]
    assert asked == ["https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/R-50.pkl"]
    with pytest.raises(InputError, match="Unknown weights 'catalog://Nope'"):
        load_state_dict_file("catalog://Nope")


def test_a_url_is_read_by_the_kind_of_its_cached_name(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "r.pkl").write_bytes(pickle.dumps({"conv1_w": np.ones(1, np.float32)}))
    assert list(load_state_dict_file("http://127.0.0.1:9/x?id=3#r.pkl")) == ["stem.conv1.weight"]
    torch.save(STATE, tmp_path / "checkpoints" / "r.pth")
    assert_same(load_state_dict_file("http://127.0.0.1:9/r.pth?dl=1"), STATE)


def _zip(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def _tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["w.pth", "w.pkl"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer.*`git lfs pull`"),
        (b"\xef\xbb\xbf <html>", "a web page"),
        (b'{"error": "gone"}', "a JSON text.*gone"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        (_zip("m/code/a.py", "m/constants.pkl", "m/data.pkl"), r"a TorchScript program.*state_dict\(\)"),
        (_zip("m/archive_format", "m/models/model.json"), r"a program of torch\.export"),
        (_zip("conv.npy"), "an archive of NumPy arrays"),
        (_zip("model.pth"), "a zip archive of other files; unpack it"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b'model_checkpoint_path: "model.ckpt"', "a TensorFlow checkpoint"),
        (b"\0" * 40 + bytes.fromhex("57fb808b247547db"), "a TensorFlow checkpoint"),
        (b"\x1f\x8b\x08\0", "compressed with gzip; unpack it"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (_tar(), "a tar archive; unpack it"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}' is {sentence}"):
        load_state_dict_file(str(tmp_path / name))


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("w.pth", "w.pkl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="is a pipe or a device"):
            load_state_dict_file(str(tmp_path / name))


@pytest.mark.parametrize("source", ["s3://me:geheim@b/w.pth", "ftp://h/w.pth", "file:///w.pth"])
def test_other_schemes_are_named(source):
    with pytest.raises(InputError, match="is not downloaded, only http://, https://, zoo:// and hf:// are") as caught:
        load_state_dict_file(source)
    assert "geheim" not in repr(caught.value)


def test_pkl_that_torch_saved(tmp_path):
    path = str(tmp_path / "w.pkl")
    torch.save({"model": STATE}, path)
    assert_same(load_state_dict_file(path), STATE)


def in_torch_file(pickled):
    """Make a file of torch.save whose pickle is replaced."""
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    source, changed = zipfile.ZipFile(buffer), io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return changed.getvalue()


_DEEP_KEY = b"\x80\x02}N" + b"\x85" * 300_000 + b"Ns."
_SET_AGAIN_AND_AGAIN = (
    b"\x80\x02]q\0(" + b"K\x01" * 5000 + b"ec__builtin__\nset\nq\x010(" + b"h\x01h\0\x85R" * 2000 + b"l."
)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("w.pkl", b"\x80\x02Nr\xff\xff\xff\x0f.", "it numbers a value 268435455"),
        ("w.pkl", b"Np268435455\n.", "it numbers a value 268435455"),
        ("w.pkl", b"\x80\x05\x96" + (2**31).to_bytes(8, "little") + b".", "it claims a value of 2147483648 bytes"),
        ("w.pkl", b"\x80\x05\x8e" + (2**61).to_bytes(8, "little") + b".", "it claims a value of"),
        ("w.pkl", b"\x80\x05\x8d" + (2**40).to_bytes(8, "little") + b".", "it claims a value of"),
        ("w.pkl", b"\x80\x02X\xff\xff\xff\x7f.", "it claims a value of"),
        ("w.pkl", b"\x80\x02\x8b\xff\xff\xff\x7f.", "it claims a value of"),
        ("w.pkl", _DEEP_KEY, "nested more than 100 deep"),
        ("w.pth", in_torch_file(_DEEP_KEY), "nested more than 100 deep"),
        ("w.pth", in_torch_file(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."), "it makes a bytearray"),
        ("w.pth", in_torch_file(_SET_AGAIN_AND_AGAIN), "uses large values again and again"),
    ],
)
def test_memory_and_depth_are_bounded_by_the_files_size(tmp_path, name, data, sentence):
    (tmp_path / name).write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"{name}' is damaged or is not a weights file .*{sentence}"):
            load_state_dict_file(str(tmp_path / name))
        assert tracemalloc.get_traced_memory()[1] < 100 * len(data) + 10_000_000
    finally:
        tracemalloc.stop()


def test_a_zip_bomb(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(100_000)}, buffer)
    source = zipfile.ZipFile(buffer)
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    with pytest.raises(InputError, match="would unpack to more than its own size"):
        load_state_dict_file(str(tmp_path / "w.pth"))


def test_pkl_whose_blobs_share_their_bytes(tmp_path):
    array = PickledOnce(np.zeros(1000, np.float32))
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({f"blob{number}": array for number in range(9)}, protocol=2))
    with pytest.raises(InputError, match="use the same bytes again and again"):
        load_state_dict_file(str(tmp_path / "w.pkl"))


class PickledOnce:
    """Array whose pickle the others refer to."""

    def __init__(self, array):
        self._array = array

    def __reduce__(self):
        return self._array.__reduce__()


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), RuntimeError("can't allocate memory")])
def test_what_parsers_raise_is_a_sentence(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    for name, function in (("w.pth", "torch.load"), ("w.pkl", "fcos_core.weights.state_dict_file.read_blobs")):
        torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=False)
        monkeypatch.setattr(function, fail)
        with pytest.raises(InputError, match=r"more memory than is free|RecursionError: too deep"):
            load_state_dict_file(str(tmp_path / name))
