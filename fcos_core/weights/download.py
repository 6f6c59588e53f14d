"""Download files from URLs, once, into PyTorch's cache."""

import base64
import fcntl
import functools
import hashlib
import http.client
import logging
import os
import re
import urllib.parse
import urllib.request

import torch

from fcos_core.errors import InputError
from fcos_core.utils.files import replacing
from fcos_core.utils.progress import progress
from fcos_core.utils.text import HIDDEN, printable, without_secrets
from fcos_core.weights.file_kind import START, never_weights

# Start of the SHA-256 of the content in the name of a published file.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")
# Characters that a URL may hold as they are; quoting escapes all others, such as spaces and accents.
_URL_CHARACTERS = "/%:=&?~+!$,;'@()*[]"
# A server that sends nothing for so many seconds counts as dead.
_TIMEOUT = 60
_CHUNK = 1_000_000

logger = logging.getLogger(__name__)


def download(url: str) -> str:
    """Return the path of the cached file of `url`, after downloading it if the cache lacks it.

    A record beside each file names its URL: a file of another URL is never taken. A file without a record, which the
    user put there by hand, is taken and logged. Of several processes on a machine one downloads and the others wait.
    If a name ends in `-HASH.ext` with eight or more hexadecimal digits, the SHA-256 of the content must start with
    them. A login in the URL, as in https://USER:PASSWORD@host/file, is sent to this server alone. Raise InputError if
    the URL is malformed, the server, the network or the disk fails, the hash differs, or what came is no file of
    weights.
    """
    path = cached_path(url)
    if found := _find(url, path):
        return found
    if HIDDEN in url:
        raise InputError(
            f"The URL '{url}' lacks what stood in the place of {HIDDEN}: logs and config.yaml leave passwords out. "
            "Write the whole URL into MODEL.WEIGHT."
        )
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # The operating system releases this lock when its holder dies, even by SIGKILL.
        with open(f"{path}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_of(url, path):
                _fetch(url, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"Downloading {without_secrets(url)} failed: {error}. Download it yourself and save it as {path}, or name "
            "your own file: MODEL.WEIGHT FILE."
        ) from error
    return path


def cached_path(url: str) -> str:
    """Return the path in the cache under which `download` saves `url`.

    The file is called NAME after #NAME, and as in the URL if this name carries the hash of the content. As the URLs of
    many files end in the same name, any other is called STEM-<8 hex digits of the URL's SHA-256>.EXT. Raise InputError
    if the URL is malformed or names no file.
    """
    name = _plain_name(url)
    if not _split(url).fragment and not HASH_IN_NAME.search(name):
        stem, extension = os.path.splitext(name)
        name = f"{stem}-{_identity(url)[:8]}{extension}"
    return _in_cache(name)


def _in_cache(name: str) -> str:
    return os.path.join(torch.hub.get_dir(), "checkpoints", name)


def _find(url: str, path: str) -> str | None:
    """Return the file of `url` in the cache: `path`, or the file under its plain name; None if there is none."""
    for candidate in dict.fromkeys([path, _in_cache(_plain_name(url))]):
        if _is_of(url, candidate):
            if not os.path.exists(_record(candidate)):
                _say_taken(candidate, without_secrets(url))
            return candidate
    return None


@functools.cache
def _say_taken(path: str, url: str) -> None:
    """Log once, however often a file is read, that it is taken for `url`."""
    logger.warning("Taking %s for %s: no record says where it came from.", path, url)


def _is_of(url: str, path: str) -> bool:
    """Return True if `path` exists and its record, if there is one, names `url`."""
    if not os.path.exists(path):
        return False
    try:
        with open(_record(path), encoding="utf-8", errors="replace") as file:
            return _identity(url) in file.read().split()
    except FileNotFoundError:
        return True


def _record(path: str) -> str:
    return f"{path}.url"


def _split(url: str) -> urllib.parse.SplitResult:
    """Split `url`; raise InputError if it is malformed."""
    try:
        parts = urllib.parse.urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in parts.netloc
    except ValueError:  # such as a port that is no number
        valid = False
    if not valid:
        # Without the cause of the ValueError, which quotes what may be a password.
        raise InputError(
            f"'{printable(url)}' is not a URL: write https://HOST/PATH, and %40, %3A, %2F, %3F or %23 for @, :, "
            "/, ? or # in a password."
        )
    return parts


def _plain_name(url: str) -> str:
    parts = _split(url)
    name = os.path.basename(urllib.parse.unquote(parts.fragment or parts.path))
    # The URLs of many files end in the same word without an extension, such as "download".
    if not os.path.splitext(name)[1] or "\0" in name:
        raise InputError(f"The URL '{without_secrets(url)}' names no file; add #NAME.pth to name it.")
    return name


def _without_login(url: str) -> str:
    parts = _split(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _identity(url: str) -> str:
    """Return the SHA-256 of `url` without #NAME and login, neither of which changes the content of the file."""
    return hashlib.sha256(_without_login(url).encode()).hexdigest()


def _request(url: str) -> urllib.request.Request:
    address = urllib.parse.urlsplit(_without_login(url))
    address = address._replace(
        netloc=address.netloc if address.netloc.isascii() else address.netloc.encode("idna").decode(),
        path=urllib.parse.quote(address.path, _URL_CHARACTERS),
        query=urllib.parse.quote(address.query, _URL_CHARACTERS),
    )
    request = urllib.request.Request(address.geturl(), headers={"User-Agent": "fcos_core"})
    parts = _split(url)
    if parts.username is not None:
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        # A server that redirects to another one must not pass the password on.
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    return request


def _fetch(url: str, path: str) -> None:
    logger.info("Downloading %s to %s", without_secrets(url), path)
    digest = hashlib.sha256()
    with urllib.request.urlopen(_request(url), timeout=_TIMEOUT) as response, replacing(path) as file:
        total = int(response.headers.get("Content-Length", 0))
        start = b""
        chunks = iter(functools.partial(response.read, _CHUNK), b"")
        for chunk in progress(chunks, -(-total // _CHUNK) or None, "Downloading", "megabyte"):
            file.write(chunk)
            digest.update(chunk)
            start = (start + chunk[:START])[:START]
        if total and file.tell() != total:
            raise ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")
        if wrong := never_weights(start):
            raise ValueError(f"the server sent {wrong}")
        _check_hash(url, digest.hexdigest())
        _write_record(url, path)


def _check_hash(url: str, digest: str) -> None:
    stated = HASH_IN_NAME.search(_plain_name(url)) or HASH_IN_NAME.search(_split(url).path)
    if stated and not digest.startswith(stated[1]):
        raise ValueError(f"its SHA-256 starts with {digest[: len(stated[1])]}, but its name says {stated[1]}")


def _write_record(url: str, path: str) -> None:
    """Write the URL for people, without secrets, and its hash for `_is_of`."""
    # A crash between the two writes must not leave the content of another URL beside this record.
    if os.path.exists(path):
        logger.warning("%s is of another URL: replacing it. Write another #NAME to keep both.", path)
        os.remove(path)
    with replacing(_record(path)) as file:
        file.write(f"{without_secrets(_without_login(url))}\n{_identity(url)}\n".encode())
