"""Common parts of the readers: images, boxes, problems, and the search for image files."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fcos_core.data.image_file import ENDINGS
from fcos_core.errors import InputError
from fcos_core.utils.files import files_below

_SPLIT_NAMES = {"train": "train", "training": "train", "trainval": "train", "test": "test", "testing": "test"}
_SPLIT_NAMES |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")


@dataclass(frozen=True)
class Problem:
    """A fault of a dataset, and its consequence for the conversion.

    Attributes:
        where: file, with ":LINE" where the line is known.
        fault: a sentence without its full stop.
        left_out: "image" or "box", which the conversion leaves out; "": nothing is left out.
    """

    where: str
    fault: str
    left_out: str = ""

    def __str__(self) -> str:
        consequence = f" (the {self.left_out} is left out)" if self.left_out else ""
        return f"{self.where}: {self.fault}{consequence}"


def place(file: str | os.PathLike[str], line: int) -> str:
    """Return "FILE:LINE", or the file alone if the line is 0, that is, not known."""
    return f"{file}:{line}" if line else f"{file}"


class Unusable(Exception):
    """An annotation that cannot be understood: its object would be learned as background, so its image is left out."""

    def __init__(self, fault: str, line: int = 0) -> None:
        super().__init__(fault)
        self.line = line

    def problem(self, file: str | os.PathLike[str]) -> Problem:
        """Return the problem for the annotation file `file`."""
        return Problem(place(file, self.line), str(self), "image")


@dataclass(frozen=True)
class Box:
    """A box of a class, as an annotation file has it.

    Attributes:
        name: class.
        edges: (x1, y1, x2, y2) of the box's edges, from the image's left upper edge; x2 - x1 is the width.
        line: line of the file; 0: not known.
        is_ignored: not to be learned, and no fault to find or to miss.
    """

    name: str
    edges: tuple[float, float, float, float]
    line: int
    is_ignored: bool = False


@dataclass
class AnnotatedImage:
    """An image and its boxes.

    Attributes:
        path: the image file.
        file: the annotation file.
        boxes: all boxes.
        split: "train", "val", "test", or "" if the dataset does not say it.
        size: (width, height) that the annotation gives, or None.
        in_shares: edges are shares of the upright image's width and height, not pixels.
    """

    path: Path
    file: Path
    boxes: list[Box] = field(default_factory=list)
    split: str = ""
    size: tuple[int, int] | None = None
    in_shares: bool = False


class ImageFiles:
    """The image files below a folder, by name, whatever the case of letters.

    Args:
        folder: searched with the folders in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Files with other endings are read where an annotation names them.
        paths = [path for path in files_below(folder) if path.suffix.lower() in ENDINGS]
        # Beside VOC's photographs there may be pictures of their segmentation, of the same names.
        self.paths = [path for path in paths if "JPEGImages" in path.parts] or paths
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            self._by_name[path.name.lower()].append(path)
            self._by_stem[path.stem.lower()].append(path)

    def find(self, name: str) -> Path | None:
        """Find the image that an annotation calls `name`, a path of any system; raise Unusable if it is one of many."""
        parts = PurePosixPath(name.strip().replace("\\", "/")).parts
        if not parts:
            return None
        direct = self.folder.joinpath(*parts)
        if direct.is_file():
            return direct
        found = self._by_name.get(parts[-1].lower(), [])
        for length in range(2, len(parts) + 1):
            if len(found) <= 1:
                break
            tail = tuple(part.lower() for part in parts[-length:])
            found = [path for path in found if tuple(part.lower() for part in path.parts[-length:]) == tail] or found
        return _only(found, name)

    def find_beside(self, file: Path, name: str) -> Path | None:
        """Find the image of the annotation file `file`: of its own name, or else `name`, which the file gives.

        Raise Unusable if there are several.
        """
        found = self._by_stem.get(file.stem.lower(), [])
        beside = [path for path in found if path.parent == file.parent] or found
        named = [path for path in beside if path.name.lower() == last_part(name)]
        return _only(named or beside, file.stem) or (self.find(name) if name.strip() else None)


def _only(paths: list[Path], name: str) -> Path | None:
    if len(paths) > 1:
        raise Unusable(f"{len(paths)} image files fit to {name!r}: {paths[0]}, {paths[1]}: rename one")
    return paths[0] if paths else None


def last_part(name: str) -> str:
    """Return the file's own name, in small letters, of a path of any system."""
    return name.replace("\\", "/").rpartition("/")[2].strip().lower()


def split_in(names: Iterable[str]) -> str:
    """Return the split, "train", "val" or "test", that the first of `names` with such a meaning says, or ""."""
    return next((_SPLIT_NAMES[name.lower()] for name in names if name.lower() in _SPLIT_NAMES), "")


def number(text: str | None, name: str, line: int) -> float:
    """Return the finite number in `text`; raise Unusable, which calls it `name`, if there is none."""
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Unusable(f"{name} is {(text or '')[:40]!r}, which is no number", line)
    return value


def read_text(path: Path) -> str:
    """Read a small file as UTF-8; raise Unusable if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(f"it is not text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise Unusable(f"it cannot be read ({error.strerror})") from error


def check_source(folder: Path) -> None:
    """Raise InputError if `folder` does not exist."""
    if not folder.exists():
        raise InputError(f"'{folder}' does not exist (looked at {folder.absolute()}): name the dataset's folder.")
