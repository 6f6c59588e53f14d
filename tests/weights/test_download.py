import fcntl
import hashlib
import http.server
import os
import subprocess
import sys
import textwrap
import threading
import time
import urllib.parse
from collections import Counter

import pytest
import torch

from fcos_core.errors import InputError
from fcos_core.weights.download import cached_path, download

DATA = bytes(range(256)) * 50
SHA = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = Counter()

    def url(self, rest):
        return f"http://127.0.0.1:{self.server_port}/{rest}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests[self.path] += 1
        name = urllib.parse.urlsplit(self.path).path
        if "missing" in name:
            self.send_error(404)
            return
        if "slow" in name:
            time.sleep(0.5)
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA[:100] if "short" in name else DATA)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path / "hub" / "checkpoints"


def leftovers(cache):
    return [name for name in os.listdir(cache) if not name.endswith(".lock")]


def test_downloaded_once_then_reused(server, cache):
    path = download(server.url("a/w.pth"))
    assert path == str(cache / "w.pth")
    assert (cache / "w.pth").read_bytes() == DATA
    assert download(server.url("a/w.pth")) == path
    assert server.requests == {"/a/w.pth": 1}
    assert leftovers(cache) == ["w.pth"]


def test_part_after_hash_sign_names_the_file(server, cache):
    path = download(server.url("s/x.pth?dl=1#hrnet.pth"))
    assert path == str(cache / "hrnet.pth")
    assert server.requests == {"/s/x.pth?dl=1": 1}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/b.pth", "b.pth"),
        ("https://h/a/b.pth?dl=1", "b.pth"),
        ("https://h/a/b%20c.pth", "b c.pth"),
        ("https://h/a/b.pth#../../etc/d.pkl", "d.pkl"),
    ],
)
def test_cached_name(cache, url, name):
    assert cached_path(url) == str(cache / name)


@pytest.mark.parametrize("url", ["https://h", "https://h/", "https://h/a#..", "https://h/a#b/"])
def test_url_without_a_name(cache, url):
    with pytest.raises(InputError, match="names no file; add #NAME"):
        cached_path(url)


@pytest.mark.parametrize("rest", [f"w-{SHA[:8]}.pth", f"w-{SHA}.pth", f"x#w-{SHA[:10]}.pth", f"w-{SHA[:8]}.pth#w.pth"])
def test_right_hash(server, cache, rest):
    with open(download(server.url(rest)), "rb") as file:
        assert file.read() == DATA


@pytest.mark.parametrize("rest", ["w-0123abcd.pth", "x#w-0123abcd.pth", "w-0123abcd.pth#w.pth"])
def test_wrong_hash_leaves_nothing(server, cache, rest):
    with pytest.raises(InputError, match=rf"SHA-256 starts with {SHA[:8]}, but its name says 0123abcd"):
        download(server.url(rest))
    assert leftovers(cache) == []


def test_names_that_state_no_hash(server, cache):
    for name in ("X-101-32x8d.pkl", "R-50.pkl", "w-abc1234.pth"):
        assert download(server.url(name)) == str(cache / name)


def test_error_names_url_place_and_override(server, cache):
    url = server.url("missing.pth")
    with pytest.raises(InputError) as caught:
        download(url)
    message = str(caught.value)
    assert url in message and "404" in message and str(cache / "missing.pth") in message
    assert "MODEL.WEIGHT FILE" in message
    assert leftovers(cache) == []


def test_connection_that_ends_early(server, cache):
    with pytest.raises(InputError, match=f"ended after 100 of {len(DATA)} bytes"):
        download(server.url("short.pth"))
    assert leftovers(cache) == []


def test_no_server(cache):
    with pytest.raises(InputError, match="refused"):
        download("http://127.0.0.1:9/w.pth")


def test_cache_that_cannot_be_made(server, cache):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"Downloading .* failed"):
        download(server.url("w.pth"))
    assert not server.requests


def test_of_several_at_once_one_fetches(server, cache):
    threads = [threading.Thread(target=download, args=(server.url("slow.pth"),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == {"/slow.pth": 1}
    assert (cache / "slow.pth").read_bytes() == DATA


def test_a_downloader_that_dies_blocks_nobody(server, cache):
    cache.mkdir(parents=True)
    holder = textwrap.dedent(
        """
        import fcntl, sys, time
        lock = open(sys.argv[1], "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        open(sys.argv[2], "w").write("half of a file")
        print("locked", flush=True)
        time.sleep(60)
        """
    )
    lock = str(cache / "w.pth.lock")
    arguments = [sys.executable, "-c", holder, lock, str(cache / "w.pth.tmp")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        waiter = threading.Thread(target=download, args=(server.url("w.pth"),))
        waiter.start()
        with open(lock, "w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiter.join(0.2)
        assert waiter.is_alive() and not server.requests
        process.kill()
    waiter.join(10)
    assert not waiter.is_alive()
    assert (cache / "w.pth").read_bytes() == DATA
    assert leftovers(cache) == ["w.pth"]


def test_progress_on_a_terminal_alone(server, cache, monkeypatch, capsys):
    download(server.url("quiet.pth"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    download(server.url("shown.pth"))
    shown = capsys.readouterr().err
    assert shown.startswith("\r") and "100%" in shown and "12.8k/12.8k" in shown and shown.endswith("\n")
