"""Read YOLO: a data.yaml with class names and folders of images, and a text file of boxes for each image."""

from pathlib import Path
from typing import Any

import yaml

from fcos_core.data.formats.source import (
    AnnotatedImage,
    Box,
    Problem,
    Unusable,
    number,
    read_text,
)
from fcos_core.data.image_file import ENDINGS
from fcos_core.errors import InputError
from fcos_core.utils.files import files_below

# A class, and the center, width and height of its box.
_FIELDS = 5


def read_yolo(data_yaml: Path, problems: list[Problem]) -> tuple[list[AnnotatedImage], list[str]]:
    """Read the images that a data.yaml names, and return them with the class names in the file's order.

    The labels of .../images/NAME.jpg are in .../labels/NAME.txt; without a folder images/, beside the image. An image
    without a label file has no objects. A line of more than five numbers is a polygon, which gives its bounding box;
    with kpt_shape in data.yaml it is a box with keypoints.

    Raises:
        InputError: data.yaml cannot be used, or no image has a label file.
    """
    try:
        content = yaml.safe_load(read_text(data_yaml))
    except (Unusable, yaml.YAMLError) as error:
        raise InputError(f"'{data_yaml}' cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(f"'{data_yaml}' has no sections: give names and the folders train and val.")
    names = _names(content, data_yaml)
    with_keypoints = "kpt_shape" in content
    found: list[AnnotatedImage] = []
    label_files: set[Path] = set()
    for split in ("train", "val", "test"):
        for path in _images(content, split, data_yaml, problems):
            labels = _label_file(path)
            label_files.add(labels)
            image = AnnotatedImage(path, labels, split=split, in_shares=True)
            try:
                image.boxes = _read_labels(labels, names, with_keypoints) if labels.is_file() else []
            except Unusable as error:
                problems.append(error.problem(labels))
                continue
            found.append(image)
    if label_files and not any(file.is_file() for file in label_files):
        example = min(label_files)
        raise InputError(f"None of the {len(label_files)} images of '{data_yaml}' has a label file, such as {example}.")
    _report_orphans(label_files, problems)
    return found, names


def _names(content: dict[str, Any], data_yaml: Path) -> list[str]:
    """Return the class names, from a list or from a section {0: name, 1: name, ...}."""
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"'{data_yaml}' needs names: a list of class names, or a section from 0 on, such as '0: cat'.")
    if "nc" in content and content["nc"] != len(names):
        raise InputError(f"'{data_yaml}' has nc {content['nc']} but {len(names)} names: correct one of them.")
    return [str(name) for name in names]


def _images(content: dict[str, Any], key: str, data_yaml: Path, problems: list[Problem]) -> list[Path]:
    """Return the images that an entry names: a folder, a text file with an image a line, or a list of these."""
    entries = content.get(key) or []
    images: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = _existing(str(entry), str(content.get("path") or ""), data_yaml.parent)
        if place is None:
            problems.append(Problem(f"{data_yaml}", f"{key} names {str(entry)!r}, which does not exist"))
        elif place.is_dir():
            images += [path for path in files_below(place) if path.suffix.lower() in ENDINGS]
        else:
            for line in filter(None, map(str.strip, _lines(place))):
                path = _existing(line, "", place.parent)
                if path is None:
                    problems.append(Problem(f"{place}", f"the image {line!r} is missing", "image"))
                else:
                    images.append(path)
    return images


def _lines(file: Path) -> list[str]:
    try:
        return read_text(file).splitlines()
    except Unusable as error:
        raise InputError(f"'{file}', a list of images: {error}.") from error


def _existing(entry: str, root: str, folder: Path) -> Path | None:
    """Find an entry: relative to `path` in data.yaml, to data.yaml's folder, or to this folder with ../ left away."""
    entry = entry.replace("\\", "/")
    stripped = entry
    while stripped.startswith("../"):  # as exports of Roboflow write it, whatever the place of data.yaml
        stripped = stripped[3:]
    for candidate in (folder / root / entry, Path(root) / entry, folder / entry, folder / stripped):
        if candidate.exists():
            return candidate
    return None


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_labels(path: Path, names: list[str], with_keypoints: bool) -> list[Box]:
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [_box(line.split(), row, names, with_keypoints) for row, line in lines if line.strip()]


def _box(words: list[str], line: int, names: list[str], with_keypoints: bool) -> Box:
    values = [number(word, "a value", line) for word in words]
    if values[0] not in range(len(names)):
        raise Unusable(f"class {words[0]} is none of 0 to {len(names) - 1}, the classes of data.yaml", line)
    name = names[int(values[0])]
    if len(values) == _FIELDS or (with_keypoints and len(values) > _FIELDS):
        x, y, width, height = values[1:_FIELDS]
        return Box(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), line)
    if len(values) < 7 or len(values) % 2 == 0:
        raise Unusable(
            f"it has {len(words)} numbers: a class and x, y, width, height, or x, y of 3 or more points", line
        )
    xs, ys = values[1::2], values[2::2]
    return Box(name, (min(xs), min(ys), max(xs), max(ys)), line)


def _report_orphans(files: set[Path], problems: list[Problem]) -> None:
    for folder in sorted({file.parent for file in files}):
        # Beside the images there may be other texts, such as a list of the classes.
        if folder.is_dir() and "labels" in folder.parts:
            orphans = (path for path in sorted(folder.glob("*.txt")) if path not in files and path.stem != "classes")
            problems += [Problem(f"{path}", "there is no image for this label file", "image") for path in orphans]
