"""Find the inputs that a user names: images, folders, patterns, video files, cameras and streams."""

import glob
import logging
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from PIL import Image, UnidentifiedImageError

from fcos_core.data.image_file import ENDINGS, FORMATS
from fcos_core.engine.video import can_be_opened
from fcos_core.errors import InputError
from fcos_core.utils.files import files_below
from fcos_core.utils.text import without_secrets

# Without ".ts", which ends the names of programs, too; such a file is known by its content where it is named itself.
_VIDEO_ENDINGS = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv")
)
# Endings of pictures that any program shows; a picture of another kind of image is written as PNG.
_WRITTEN = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"))

logger = logging.getLogger(__name__)

Kind = Literal["image", "video", "live"]


@dataclass(frozen=True)
class Source:
    """An image, a video file, or a camera or stream.

    Attributes:
        kind: "image", "video", or "live" for a camera or stream.
        location: path or URL; the number of a camera.
        output: path of its picture or video below the folder of results; no two sources have the same.
    """

    kind: Kind
    location: str | int
    output: PurePath

    @property
    def name(self) -> str:
        """Path, URL without secrets, or "camera N"."""
        return f"camera {self.location}" if isinstance(self.location, int) else without_secrets(self.location)


def find_sources(inputs: Sequence[str], output: str | os.PathLike[str]) -> list[Source]:
    """Return the sources that `inputs` name, each file once, in the order of `inputs` and by name within a folder.

    Args:
        inputs: images, video files, folders (searched with their subfolders), patterns such as "photos/*.jpg", numbers
            of cameras and URLs of streams.
        output: folder of results; files in it are left out where a folder that holds it is searched.

    Raises:
        InputError: an input does not exist, is neither image nor video, or holds none; or a result would take the
            place of an input.
    """
    output = os.path.realpath(output)
    sources: dict[str | int, Source] = {}
    taken: set[str] = set()
    for word in inputs:
        found = list(_expand(word, output))
        if not found:
            raise InputError(f"'{word}' holds no image and no video, known by their endings (.jpg, .mp4, ...).")
        for kind, location, name in found:
            key = location if kind == "live" else os.path.realpath(location)
            if key not in sources:
                sources[key] = Source(kind, location, _free_name(kind, name, taken))
    for source in sources.values():
        if os.path.realpath(os.path.join(output, source.output)) in sources:
            raise InputError(
                f"The picture of '{source.name}' would be written over the input '{source.output}' in '{output}': name "
                "another folder with --output."
            )
    return list(sources.values())


def _expand(word: str, output: str) -> Iterator[tuple[Kind, str | int, PurePath]]:
    """Yield kind, location and name of every source that one word names."""
    if os.path.isdir(word):
        yield from _in_folder(word, output)
    elif os.path.exists(word):
        yield _kind_of(word), word, PurePath(os.path.basename(word))
    elif word.isascii() and word.isdigit():
        yield "live", int(word), PurePath(f"camera_{word}")
    elif "://" in word:
        yield "live", word, _stream_name(word)
    elif glob.has_magic(word):
        matches = sorted(glob.glob(word, recursive=True))
        if not matches:
            raise InputError(f"No file matches the pattern '{word}' (looked from {os.getcwd()}).")
        for match in matches:
            kind = _kind_by_ending(match)
            if os.path.isdir(match):
                yield from _in_folder(match, output)
            elif kind is not None:
                yield kind, match, PurePath(os.path.basename(match))
    else:
        raise InputError(
            f"The input '{word}' does not exist (looked at {os.path.abspath(word)}): name an image, a folder, a video, "
            "the number of a camera or the URL of a stream."
        )


def _in_folder(folder: str, output: str) -> Iterator[tuple[Kind, str, PurePath]]:
    """Yield the images and videos in a folder and its subfolders, without hidden ones and those in `output`."""
    others = 0
    # The folder itself may be `output`: its images are refused later, not left out.
    for path in files_below(folder, "" if os.path.realpath(folder) == output else output):
        kind, name = _kind_by_ending(path), path.relative_to(folder)
        others += kind is None
        if kind is not None:
            yield kind, os.path.join(folder, name), name
    if others:
        logger.info("Left out %d files in '%s' that are no images or videos by their endings.", others, folder)


def _kind_by_ending(path: str | PurePath) -> Kind | None:
    ending = os.path.splitext(path)[1].lower()
    return "image" if ending in ENDINGS else "video" if ending in _VIDEO_ENDINGS else None


def _kind_of(path: str) -> Kind:
    """Tell an image from a video by the ending of its name, or by its content if the ending is unknown."""
    if not os.path.isfile(path):
        raise InputError(f"The input '{path}' is neither a file nor a folder.")
    kind = _kind_by_ending(path)
    if kind is not None:
        return kind
    try:
        with Image.open(path, formats=FORMATS):
            return "image"
    except UnidentifiedImageError as error:
        if can_be_opened(path):
            return "video"
        raise InputError(f"The input '{path}' is neither an image nor a video that OpenCV can open.") from error
    except Exception:  # a damaged image: reading it will say what is wrong
        return "image"


def _stream_name(url: str) -> PurePath:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or parts.scheme
    except ValueError as error:
        raise InputError(f"'{url}' is no URL of a stream ({error}): correct it.") from error
    if os.path.splitext(parts.path)[1].lower() in ENDINGS:
        raise InputError(f"'{url}' is an image; URLs are those of streams and videos: download it first.")
    stem = PurePath(parts.path).stem
    return PurePath("_".join(filter(None, ("".join(c if c.isalnum() or c in ".-" else "_" for c in host), stem))))


def _free_name(kind: Kind, name: PurePath, taken: set[str]) -> PurePath:
    """Return a path below the folder of results that no other source has, also where upper and lower case are one."""
    suffix = name.suffix if name.suffix.lower() in _WRITTEN else ".png"
    if kind != "image":
        suffix = ".mp4"
    stem = name.name if kind == "live" else name.stem
    number, path = 1, name.with_name(stem + suffix)
    while str(path).casefold() in taken:
        number += 1
        path = name.with_name(f"{stem}_{number}{suffix}")
    taken.add(str(path).casefold())
    return path
