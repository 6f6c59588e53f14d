"""Read CSV: a row for each box, with the image's file, two corners in pixels and a class."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcos_core.data.formats.source import (
    AnnotatedImage,
    Box,
    ImageFiles,
    Problem,
    Unusable,
    number,
    read_text,
    split_in,
)
from fcos_core.errors import InputError

# Names of columns, without case, spaces, _ and -.
_COLUMNS = {
    "file": ("file", "filename", "image", "imagename", "imagepath", "imagefile", "path", "filepath", "img", "imgpath"),
    "xmin": ("xmin", "x1", "left"),
    "ymin": ("ymin", "y1", "top"),
    "xmax": ("xmax", "x2", "right"),
    "ymax": ("ymax", "y2", "bottom"),
    "class": ("class", "label", "classname", "labelname", "category", "name"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
}
_NEEDED = ("file", "xmin", "ymin", "xmax", "ymax", "class")
_OPTIONAL = {"width", "height"}
# Key of the cells beyond the last column.
_MORE = "more"


def read_csv(files: list[Path], images: ImageFiles, first_pixel: int, problems: list[Problem]) -> list[AnnotatedImage]:
    """Read CSV files with columns in any order, named in the first row; without names: file,x1,y1,x2,y2,class.

    A row with a file alone is an image without objects. A file name that says train, val or test gives the split, if
    there are several files.

    Args:
        files: at least one.
        images: where the images are.
        first_pixel: 0: numbers are edges, and x2 - x1 is the width; 1: pixels from 1 on, x2 is the last one.
        problems: gets the faults; an image with a row that cannot be understood is left out.

    Raises:
        InputError: a file is not such a table.
    """
    found: dict[tuple[str, str], AnnotatedImage] = {}
    broken: set[tuple[str, str]] = set()
    for file in files:
        split = split_in(re.split(r"[\W\d_]+", file.stem)) if len(files) > 1 else ""
        for line, row in _rows(file):
            name = row.get("file", "").strip()
            if name and (split, name) in broken:
                continue
            try:
                image = found.get((split, name)) or _image(name, file, images, line)
                found[split, name] = image
                image.split = split
                _add(image, row, line, first_pixel)
            except Unusable as error:
                problems.append(error.problem(file))
                broken.add((split, name))
    used = {image.path for image in found.values()}
    problems += [Problem(f"{path}", "no row is about it", "image") for path in images.paths if path not in used]
    return [image for key, image in found.items() if key not in broken]


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line and row of a table, by the names of `_COLUMNS`."""
    try:
        lines = read_text(file).splitlines()
    except Unusable as error:
        raise InputError(f"'{file}': {error}.") from error
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    columns: list[str] | None = None
    for row in _read_rows(reader, file):
        if not any(cell.strip() for cell in row):
            continue
        if columns is None:
            columns, is_header = _header(row, file)
            if is_header:
                continue
        yield reader.line_num, {**dict(zip(columns, row, strict=False)), _MORE: ",".join(row[len(columns) :])}


def _read_rows(reader: Any, file: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:  # such as a field that is too long, because a quotation mark is missing
        raise InputError(f"'{file}', line {reader.line_num}: {error}: correct the line.") from error


def _header(row: list[str], file: Path) -> tuple[list[str], bool]:
    """Return the names of the columns, and True if they stand in the first row, `row`."""
    plain = ["".join(char for char in cell.lower() if char not in " _-") for cell in row]
    known = {alias: name for name, aliases in _COLUMNS.items() for alias in aliases}
    columns = [known.get(cell, "") for cell in plain]
    if set(_NEEDED) <= set(columns):
        twice = next((name for name in _NEEDED if columns.count(name) > 1), "")
        if twice:
            raise InputError(f"'{file}': two columns may be {twice!r} ({', '.join(row)}): leave one.")
        return columns, True
    is_data = len(row) == len(_NEEDED) and (not any(row[1:]) or all(_is_number(cell) for cell in row[1:5]))
    if is_data:
        return list(_NEEDED), False
    missing = ", ".join(name for name in _NEEDED if name not in columns)
    raise InputError(
        f"'{file}': its columns ({', '.join(row)[:200]}) lack {missing}: name them file, xmin, ymin, xmax, ymax, "
        "class in the first row."
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _image(name: str, file: Path, images: ImageFiles, line: int) -> AnnotatedImage:
    if not name:
        raise Unusable("the row names no image file", line)
    path = images.find(name)
    if path is None:
        raise Unusable(f"the image {name!r} is missing in {images.folder}", line)
    return AnnotatedImage(path, file)


def _add(image: AnnotatedImage, row: dict[str, str], line: int, first_pixel: int) -> None:
    if row[_MORE].strip(", "):
        raise Unusable(f"the row has more cells than the table has columns ({row[_MORE]})", line)
    if row.keys() >= _OPTIONAL and row["width"].strip() and row["height"].strip():
        width, height = (number(row[key], f"the image's {key}", line) for key in ("width", "height"))
        if image.size not in (None, (width, height)):
            raise Unusable(f"the image is {width:g}x{height:g} here, but {image.size} in an earlier row", line)
        image.size = (int(width), int(height))
    cells = [row.get(key, "").strip() for key in _NEEDED[1:]]
    if not any(cells):  # an image without objects
        return
    if not cells[4]:
        raise Unusable("the row has no class", line)
    x1, y1, x2, y2 = (number(cell, key, line) for key, cell in zip(_NEEDED[1:5], cells, strict=False))
    image.boxes.append(Box(cells[4], (x1 - first_pixel, y1 - first_pixel, x2, y2), line))
