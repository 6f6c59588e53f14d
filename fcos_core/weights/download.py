"""Files from URLs, fetched once into PyTorch's cache."""

import fcntl
import hashlib
import http.client
import logging
import os
import re
import sys
import urllib.parse
import urllib.request

import torch

from fcos_core.errors import InputError
from fcos_core.utils.files import replacing

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")
# Seconds without a byte after which a server counts as dead.
_TIMEOUT = 60
_CHUNK = 1 << 20

logger = logging.getLogger(__name__)


def cached_path(url: str) -> str:
    """Where the file of `url` is cached: named by the URL's #NAME, else by the last part of its path.

    Raises:
        InputError: the URL names no file.
    """
    parts = urllib.parse.urlsplit(url)
    name = os.path.basename(urllib.parse.unquote(parts.fragment or parts.path))
    # A bare word such as "download" ends the URLs of many files.
    if not os.path.splitext(name)[1]:
        raise InputError(f"The URL '{url}' names no file; add #NAME.pth to say how to name it.")
    return os.path.join(torch.hub.get_dir(), "checkpoints", name)


def download(url: str) -> str:
    """Path of the cached file of `url`, fetched first where there is none.

    Of several processes on a machine one fetches and the others wait. Where a name says
    `-HASH.ext` with eight or more hexadecimal digits, the SHA-256 of what arrives must start with them.

    Raises:
        InputError: the server, the network, the disk or the hash says no.
    """
    path = cached_path(url)
    if os.path.exists(path):
        return path
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # The system lets go of this lock when its holder dies, however it dies.
        with open(f"{path}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                _fetch(url, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"Downloading {url} failed: {error}. Fetch it by hand and put it at {path}, or give a file of "
            "your own: MODEL.WEIGHT FILE."
        ) from error
    return path


def _fetch(url: str, path: str) -> None:
    logger.info("Downloading %s to %s", url, path)
    digest = hashlib.sha256()
    request = urllib.request.Request(urllib.parse.urldefrag(url).url, headers={"User-Agent": "fcos_core"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, replacing(path) as file:
        total = int(response.headers.get("Content-Length", 0))
        received = 0
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            _show_progress(received, total)
        if total and received != total:
            raise ConnectionError(f"the connection ended after {received} of {total} bytes")
        _check_hash(url, path, digest.hexdigest())


def _check_hash(url: str, path: str, digest: str) -> None:
    stated = _HASH_IN_NAME.search(path) or _HASH_IN_NAME.search(urllib.parse.urlsplit(url).path)
    if stated and not digest.startswith(stated[1]):
        raise ValueError(f"its SHA-256 starts with {digest[: len(stated[1])]}, its name says {stated[1]}")


def _show_progress(received: int, total: int) -> None:
    if sys.stderr.isatty():
        of_total = f" of {total / 1e6:.0f}" if total else ""
        end = "\n" if received == total else ""
        sys.stderr.write(f"\r{received / 1e6:.0f}{of_total} MB{end}")
