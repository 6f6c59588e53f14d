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
from fcos_core.utils.text import without_secrets
from fcos_core.weights.download import cached_path, download

DATA = bytes(range(256)) * 50
SHA = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = Counter()
        self.contents = {}
        self.logins = []

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
        if "moved" in name:
            self.send_response(302)
            self.send_header(
                "Location", f"http://localhost:{self.server.server_port}/new{self.path}".replace("moved", "")
            )
            self.end_headers()
            return
        self.server.logins.append(self.headers.get("Authorization"))
        data = self.server.contents.get(name, DATA)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:100] if "short" in name else data)

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
    return [name for name in os.listdir(cache) if not name.endswith((".lock", ".url"))]


def with_hash(url, name):
    stem, extension = os.path.splitext(name)
    return f"{stem}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{extension}"


def test_downloaded_once_then_reused(server, cache):
    path = download(server.url("a/w.pth"))
    name = with_hash(server.url("a/w.pth"), "w.pth")
    assert path == str(cache / name)
    assert (cache / name).read_bytes() == DATA
    assert download(server.url("a/w.pth")) == path
    assert server.requests == {"/a/w.pth": 1}
    assert leftovers(cache) == [name]


def test_part_after_hash_sign_names_the_file(server, cache):
    path = download(server.url("s/x.pth?dl=1#hrnet.pth"))
    assert path == str(cache / "hrnet.pth")
    assert server.requests == {"/s/x.pth?dl=1": 1}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        # The digits are those of: printf %s URL | sha256sum
        ("https://h/a/b.pth", "b-e08aef59.pth"),
        ("https://h/a/b.pth?dl=1", "b-809fa8aa.pth"),
        ("https://h/a/b%20c.pth", "b c-181a41c3.pth"),
        ("https://me:secret@h/a/b.pth", "b-e08aef59.pth"),
        ("https://h/a/b-0123abcd.pth", "b-0123abcd.pth"),
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
        assert download(server.url(name)) == str(cache / with_hash(server.url(name), name))


def test_error_names_url_place_and_override(server, cache):
    url = server.url("missing.pth")
    with pytest.raises(InputError) as caught:
        download(url)
    message = str(caught.value)
    assert url in message and "404" in message and cached_path(url) in message
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
    assert (cache / with_hash(server.url("slow.pth"), "slow.pth")).read_bytes() == DATA


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
    lock = cached_path(server.url("w.pth")) + ".lock"
    arguments = [sys.executable, "-c", holder, lock, cached_path(server.url("w.pth")) + ".tmp"]
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
    with open(cached_path(server.url("w.pth")), "rb") as file:
        assert file.read() == DATA


def test_progress_on_a_terminal_alone(server, cache, monkeypatch, capsys):
    download(server.url("quiet.pth"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("fcos_core.utils.progress._DELAY", 0)
    monkeypatch.setattr("fcos_core.weights.download._CHUNK", 1000)
    download(server.url("shown.pth"))
    shown = capsys.readouterr().err
    # 12,800 bytes in pieces of 1,000, which stand for megabytes here.
    assert shown.startswith("\rDownloading: ") and "100%" in shown and "13/13" in shown and shown.endswith("\n")


def test_one_name_on_two_urls_is_two_files(server, cache):
    server.contents = {"/a/m.pth": b"content of a", "/b/m.pth": b"content of b"}
    for _ in range(2):
        for folder in "ab":
            with open(download(server.url(f"{folder}/m.pth")), "rb") as file:
                assert file.read() == f"content of {folder}".encode()
    assert server.requests == {"/a/m.pth": 1, "/b/m.pth": 1}


@pytest.mark.parametrize("name", ["#m.pth", f"-{SHA[:8]}.pth"])
def test_a_plain_name_of_another_url_is_not_taken(server, cache, name, caplog):
    download(server.url(f"a/m{name}"))
    assert download(server.url(f"a/m{name}")) and server.requests.total() == 1
    download(server.url(f"b/m{name}"))
    assert server.requests.total() == 2 and "is of another URL: replacing it" in caplog.text


def test_the_name_of_a_download_is_not_taken_for_another_url(server, cache):
    server.contents = {"/a/x": b"content of a"}
    download(server.url("a/x#m.pth"))
    with open(download(server.url("b/m.pth")), "rb") as file:
        assert file.read() == DATA
    # The record names the same URL.
    server.contents = {"/a/m.pth": b"once"}
    download(server.url("a/m.pth#n.pth"))
    assert sorted(leftovers(cache)) == sorted(["m.pth", "n.pth", with_hash(server.url("b/m.pth"), "m.pth")])


def test_a_file_put_there_by_hand_is_taken_and_logged(server, cache, caplog):
    cache.mkdir(parents=True)
    (cache / "m.pth").write_bytes(b"by hand")
    for _ in range(2):
        assert download(server.url("a/m.pth?token=geheim")) == str(cache / "m.pth")
    (line,) = caplog.messages
    assert line.startswith(f"Taking {cache}/m.pth for {server.url('a/m.pth?token=***')}") and not server.requests


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "an empty file"),
        (b"\n<!-- error --><HTML><body>log in</body>", "a web page"),
        (b"<?xml version='1.0'?><Error/>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
        (b'{"message": "Not Found"}', "a JSON text.*Not Found"),
    ],
)
def test_what_a_server_sends_in_the_place_of_weights_is_not_kept(server, cache, content, sentence):
    server.contents = {"/w.pth": content}
    with pytest.raises(InputError, match=rf"the server sent {sentence}"):
        download(server.url("w.pth"))
    assert leftovers(cache) == []


def test_a_login_goes_to_its_server_alone(server, cache):
    login = server.url("w.pth").replace("//", "//me%40home:ge%3Aheim@")
    download(login)
    # printf %s 'me@home:ge:heim' | base64
    assert server.logins == ["Basic bWVAaG9tZTpnZTpoZWlt"]
    download(login.replace("w.pth", "moved.pth"))
    assert server.logins[1:] == [None]


@pytest.mark.parametrize(
    "rest", ["missing.pth?token=geheim", "short.pth?sig=geheim&x=1", "empty.pth?geheim", "w-0123abcd.pth?a=geheim"]
)
def test_secrets_stay_out_of_messages_logs_and_records(server, cache, rest, caplog):
    server.contents = {"/empty.pth": b""}
    caplog.set_level("INFO")
    login = server.url(rest).replace("//", "//me:geheim@")
    with pytest.raises(InputError) as caught:
        download(login)
    download(server.url("w.pth?token=geheim").replace("//", "//me:geheim@"))
    shown = [str(caught.value), repr(caught.value), str(caught.value.__cause__), caplog.text, *os.listdir(cache)]
    shown += [path.read_text() for path in cache.glob("*.url")]
    assert "geheim" not in " ".join(shown) and "***" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:ge/heim@h/w.pth",
        "http://me:ge?heim@h/w.pth",
        "http://me:ge#heim@h/w.pth",
        "http://me:ge heim@h/w.pth",
        "http://[me:geheim@h/w.pth",
        "http://me:geheim@h:port/w.pth",
        "http://me:geheim@h:99999/w.pth",
        "http:///w.pth?token=geheim",
        "http://me:geheim@/w.pth",
        "http:/h/w.pth?token=geheim",
        "http://h\n/w.pth?token=geheim",
        "http://h/?token=geheim",
    ],
)
def test_malformed_urls(cache, url):
    with pytest.raises(InputError, match=r"is not a URL|names no file") as caught:
        download(url)
    assert "heim" not in repr(caught.value) and "\n" not in str(caught.value)


def test_a_url_with_hidden_parts_asks_for_them(cache):
    with pytest.raises(InputError, match=r"Write the whole URL into MODEL\.WEIGHT"):
        download(without_secrets("http://me:geheim@127.0.0.1:9/w.pth?token=1"))


def test_spaces_and_accents_in_a_url(server, cache):
    download(server.url("a b/gewichte-für?x=ä ö#w.pth"))
    assert server.requests == {"/a%20b/gewichte-f%C3%BCr?x=%C3%A4%20%C3%B6": 1}
