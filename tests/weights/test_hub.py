"""Downloads from the Hugging Face hub, here from a stand-in for it on this machine."""

import hashlib
import http.server
import sys
import threading

import pytest
import torch

from fcos_core.errors import InputError
from fcos_core.weights.hub import split_hub_name
from fcos_core.weights.state_dict_file import find_weights, load_state_dict_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "/tianzhi/FCOS/resolve/main/FCOS_R_50_FPN_1x.pth": {"a": torch.arange(3.0)},
    "/timm/hrnet_w32.ms_in1k/resolve/main/model.safetensors": {"b": torch.arange(4.0)},
}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does when huggingface_hub asks for a file: its commit, its checksum, its content."""

    contents: dict[str, bytes] = {}
    requests: list[str] = []

    def do_HEAD(self):
        self.requests.append(f"{self.command} {self.path}")
        content = self.contents.get(self.path)
        self.send_response(200 if content else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        if content:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.contents.get(self.path, b""))

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    safetensors = pytest.importorskip("safetensors.torch")
    for path, state in FILES.items():
        file = tmp_path / "file"
        safetensors.save_file(state, file) if path.endswith(".safetensors") else torch.save({"model": state}, file)
        Hub.contents[path] = file.read_bytes()
    Hub.requests.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("source", ["hf://tianzhi/FCOS/FCOS_R_50_FPN_1x.pth", "hf://timm/hrnet_w32.ms_in1k"])
def test_a_file_is_downloaded_once(hub, source):
    state = load_state_dict_file(source)
    path, expected = next((path, state) for path, state in FILES.items() if source.split("/")[3] in path)
    assert {key: value.tolist() for key, value in state.items()} == {key: v.tolist() for key, v in expected.items()}
    load_state_dict_file(source)
    assert Hub.requests.count(f"GET {path}") == 1
    # What was downloaded once is there without the network.
    hub.shutdown()
    hub.server_close()
    assert load_state_dict_file(source).keys() == expected.keys()


def test_a_file_that_the_hub_does_not_have(hub):
    with pytest.raises(InputError, match=r"Downloading hf://tianzhi/FCOS/x\.pth failed \(.*404.*Check the name"):
        find_weights("hf://tianzhi/FCOS/x.pth")


def test_a_machine_without_network(hub, monkeypatch):
    # Without this switch of the library, a dead server is asked again and again for 23 seconds.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"failed .* and the network; HF_ENDPOINT names another server"):
        find_weights("hf://timm/hrnet_w32.ms_in1k")
    assert not Hub.requests


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"needs the library huggingface_hub: pip install 'fcos_core\[hub\]'"):
        find_weights("hf://timm/hrnet_w32.ms_in1k")


def test_parts_of_a_name():
    assert split_hub_name("hf://a/b/c/d.pth") == ("a/b", "c/d.pth")
    assert split_hub_name("hf://timm/hrnet_w18.ms_in1k") == ("timm/hrnet_w18.ms_in1k", "model.safetensors")
    for name in ("hf://", "hf://timm", "hf://timm/", "hf://a/b", "hf://a/b/", "hf:///b/c.pth"):
        with pytest.raises(InputError, match=f"'{name}' names no file of the Hugging Face hub"):
            split_hub_name(name)
