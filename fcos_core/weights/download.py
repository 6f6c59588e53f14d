"""Download files from URLs, once, into PyTorch's cache."""

import fcntl
import hashlib
import http.client
import logging
import os
import re
import urllib.parse
import urllib.request

import torch
from tqdm import tqdm

from fcos_core.errors import InputError
from fcos_core.utils.files import replacing

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")
# A server that sends nothing for so many seconds counts as dead.
_TIMEOUT = 60
_CHUNK = 1 << 20

logger = logging.getLogger(__name__)


def download(url: str) -> str:
    """Return the path of the cached file of `url`, after downloading it if the cache lacks it.

    Of several processes on a machine one downloads and the others wait. If a name ends in `-HASH.ext` with eight or
    more hexadecimal digits, the SHA-256 of the content must start with them. Raise InputError if the server, the
    network or the disk fails, or the hash differs.
    """
    path = cached_path(url)
    if os.path.exists(path):
        return path
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # The operating system releases this lock when its holder dies, even by SIGKILL.
        with open(f"{path}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                _fetch(url, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"Downloading {url} failed: {error}. Download it yourself and save it as {path}, or name your own file: "
            "MODEL.WEIGHT FILE."
        ) from error
    return path


def cached_path(url: str) -> str:
    """Return the cache path of `url`, from its #NAME or the end of its path; raise InputError if it names no file."""
    parts = urllib.parse.urlsplit(url)
    name = os.path.basename(urllib.parse.unquote(parts.fragment or parts.path))
    # The URLs of many files end in the same word without an extension, such as "download".
    if not os.path.splitext(name)[1]:
        raise InputError(f"The URL '{url}' names no file; add #NAME.pth to name it.")
    return os.path.join(torch.hub.get_dir(), "checkpoints", name)


def _fetch(url: str, path: str) -> None:
    logger.info("Downloading %s to %s", url, path)
    digest = hashlib.sha256()
    request = urllib.request.Request(urllib.parse.urldefrag(url).url, headers={"User-Agent": "fcos_core"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, replacing(path) as file:
        total = int(response.headers.get("Content-Length", 0))
        # disable=None shows the bar on a terminal only.
        with tqdm(total=total or None, unit="B", unit_scale=True, disable=None) as progress:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                progress.update(len(chunk))
        if total and file.tell() != total:
            raise ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")
        _check_hash(url, path, digest.hexdigest())


def _check_hash(url: str, path: str, digest: str) -> None:
    stated = _HASH_IN_NAME.search(path) or _HASH_IN_NAME.search(urllib.parse.urlsplit(url).path)
    if stated and not digest.startswith(stated[1]):
        raise ValueError(f"its SHA-256 starts with {digest[: len(stated[1])]}, but its name says {stated[1]}")
