"""Read an annotation file in COCO format, check it and keep it as arrays."""

import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

import numpy as np

from fcos_core.data.json_stream import read_members
from fcos_core.errors import InputError

# Stands for the id of an annotation without an id or with an id that is not an integer.
_NO_ID = -(2**63)

Entry = dict[str, Any]
NumberedEntries = Iterator[tuple[int, Entry]]
# Id, (width, height) in pixels and file name.
ImageRow = tuple[int, tuple[int, int], str]


@dataclass(frozen=True)
class COCOTable:
    """N images in the order of their ids and their M annotations.

    The annotations of image i are at offsets[i]:offsets[i + 1].

    Attributes:
        ann_file: path of the annotation file.
        image_ids: (N,) int64, ascending.
        sizes: (N, 2) int64, width and height in pixels.
        file_names: (N,) str, relative to the image folder.
        offsets: (N + 1,) int64.
        annotation_ids: (M,) int64, unique and positive: the file's ids, or 1 to M if the file's ids are not.
        boxes: (M, 4) float64, x, y, width and height in pixels, unchanged from the file.
        labels: (M,) int64, 1-based in the order of the category ids.
        crowd: (M,) bool.
        areas: (M,) float64, area of the object's mask in square pixels; area of the box if the file gives none.
        category_ids: ascending.
        category_order: the same ids in the order of the file.
        category_names: in the order of category_ids.
        has_annotations: False for a file without the key `annotations`, such as COCO's test-dev.
    """

    ann_file: str
    image_ids: np.ndarray
    sizes: np.ndarray
    file_names: np.ndarray
    offsets: np.ndarray
    annotation_ids: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    category_ids: tuple[int, ...]
    category_order: tuple[int, ...]
    category_names: tuple[str, ...]
    has_annotations: bool

    def as_coco_dict(self) -> dict[str, Any]:
        """Return images, categories and annotations in the layout of a COCO file."""
        images = zip(self.image_ids.tolist(), self.sizes.tolist(), self.file_names.tolist(), strict=True)
        categories = zip(self.category_ids, self.category_names, strict=True)
        return {
            "info": {},
            "images": [{"id": i, "width": w, "height": h, "file_name": name} for i, (w, h), name in images],
            "categories": [{"id": i, "name": name} for i, name in categories],
            "annotations": self._annotation_dicts(),
        }

    def _annotation_dicts(self) -> list[dict[str, Any]]:
        columns = {
            "id": self.annotation_ids,
            "image_id": np.repeat(self.image_ids, np.diff(self.offsets)),
            "category_id": np.asarray(self.category_ids, dtype=np.int64)[self.labels - 1],
            "bbox": self.boxes,
            "area": self.areas,
            "iscrowd": self.crowd.astype(np.int64),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]


def read_coco_json(ann_file: str) -> COCOTable:
    """Read and check the annotation file `ann_file`, an entry at a time.

    Polygons are not kept. An annotation may lack `id`, `area` and `iscrowd`. The key `annotations` may be absent,
    and then `categories` too.

    Raises:
        InputError: the file is missing or not JSON; images, categories or one of their fields are missing; two
            entries have the same id; an annotation names an unknown image or category, or its box is not four
            finite numbers with a width and a height of at least 0.
    """
    sections = _read_sections(ann_file)
    if sections.images is None:
        raise _no_section("images", ann_file)
    if sections.categories is None and sections.annotations is not None:
        raise _no_section("categories", ann_file)
    image_ids, sizes, file_names = zip(*sections.images, strict=True)
    categories = sections.categories or {}
    category_ids = tuple(sorted(categories))
    annotations = sections.annotations or _Annotations()
    image_of, category_of = annotations.find(image_ids, category_ids, ann_file)
    order = np.argsort(image_of, kind="stable")
    counts = np.bincount(image_of, minlength=len(image_ids))
    return COCOTable(
        ann_file=ann_file,
        image_ids=np.array(image_ids, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64),
        file_names=np.array(file_names),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        annotation_ids=annotations.unique_ids()[order],
        boxes=annotations.boxes_array()[order],
        labels=category_of[order] + 1,
        crowd=np.array(annotations.crowd, dtype=bool)[order],
        areas=annotations.areas_array()[order],
        category_ids=category_ids,
        category_order=tuple(categories),
        category_names=tuple(categories[category_id] for category_id in category_ids),
        has_annotations=sections.annotations is not None,
    )


@dataclass
class _Sections:
    """The sections of a file that are read; None for a section that the file lacks."""

    images: list[ImageRow] | None = None
    categories: dict[int, str] | None = None
    annotations: "_Annotations | None" = None


def _read_sections(ann_file: str) -> _Sections:
    if not os.path.isfile(ann_file):
        raise InputError(
            f"The annotation file '{ann_file}' does not exist (looked at {os.path.abspath(ann_file)}): "
            "correct DATASETS.DATA_DIR or the dataset's ann_file."
        )
    sections = _Sections()
    try:
        with open(ann_file, "rb") as file:
            for key, value in read_members(file):
                if key == "images":
                    sections.images = _read_images(_entries(value, key, ann_file), ann_file)
                elif key == "categories":
                    sections.categories = _read_categories(_entries(value, key, ann_file), ann_file)
                elif key == "annotations":
                    sections.annotations = _read_annotations(_entries(value, key, ann_file), ann_file)
    except InputError:
        raise
    except json.JSONDecodeError:
        _explain_broken(ann_file)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(ann_file, error) from error
    return sections


def _explain_broken(ann_file: str) -> NoReturn:
    """Read a file that is not a JSON object once more, as a whole, to find the line and column of the fault."""
    try:
        with open(ann_file, "rb") as file:
            tree = json.loads(file.read())
    except json.JSONDecodeError as error:
        raise InputError(
            f"The annotation file '{ann_file}' is not valid JSON at line {error.lineno}, column {error.colno} "
            f"(character {error.pos}): {error.msg}. It may be cut short: copy or export it again."
        ) from error
    except ValueError as error:
        raise _unreadable(ann_file, error) from error
    raise InputError(
        f"The annotation file '{ann_file}' must be a JSON object with images, annotations and categories; "
        f"it is a {type(tree).__name__}: give the ground truth in COCO format."
    )


def _unreadable(ann_file: str, error: Exception) -> InputError:
    return InputError(f"The annotation file '{ann_file}' cannot be read as JSON: {error}. Copy or export it again.")


def _no_section(key: str, ann_file: str) -> InputError:
    return InputError(f"The annotation file '{ann_file}' has no '{key}': give a COCO file, where '{key}' is a list.")


def _entries(value: object, key: str, ann_file: str) -> NumberedEntries:
    """Yield the entries of a section, numbered from 1."""
    if not isinstance(value, Iterator):
        raise InputError(
            f"The annotation file '{ann_file}' has '{key}' that is not a list: give a COCO file, where '{key}' is "
            "a list."
        )
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, dict):
            raise InputError(
                f"'{ann_file}': entry {number} of '{key}' is {entry!r}: each entry must be an object with fields."
            )
        yield number, entry


def _read_images(entries: NumberedEntries, ann_file: str) -> list[ImageRow]:
    """Return the images in the order of their ids."""
    rows = []
    for number, entry in entries:
        image_id = _integer(entry, "id", f"entry {number} of 'images'", ann_file)
        owner = f"image {image_id}"
        width = _integer(entry, "width", owner, ann_file, least=1)
        height = _integer(entry, "height", owner, ann_file, least=1)
        rows.append((image_id, (width, height), _text(entry, "file_name", owner, ann_file)))
    if not rows:
        raise InputError(f"The annotation file '{ann_file}' lists no images: give a file that does.")
    _check_unique([row[0] for row in rows], "image", ann_file)
    return sorted(rows)


def _read_categories(entries: NumberedEntries, ann_file: str) -> dict[int, str]:
    """Return the category names by id."""
    rows = []
    for number, entry in entries:
        category_id = _integer(entry, "id", f"entry {number} of 'categories'", ann_file)
        rows.append((category_id, _text(entry, "name", f"category {category_id}", ann_file)))
    if not rows:
        raise InputError(f"The annotation file '{ann_file}' lists no categories: name at least one.")
    _check_unique([row[0] for row in rows], "category", ann_file)
    return dict(rows)


def _read_annotations(entries: NumberedEntries, ann_file: str) -> "_Annotations":
    annotations = _Annotations()
    for number, entry in entries:
        fault = _annotation_fault(entry)
        if fault:
            which = entry.get("id", f"number {number} (it has no id)")
            raise InputError(f"'{ann_file}': annotation {which} {fault}.")
        annotations.append(entry)
    return annotations


class _Annotations:
    """Columns of annotations in the order of the file; each annotation has passed `_annotation_fault`."""

    def __init__(self) -> None:
        self.ids, self.image_ids, self.category_ids = array("q"), array("q"), array("q")
        self.boxes, self.areas = array("d"), array("d")
        self.crowd = bytearray()

    def append(self, entry: Entry) -> None:
        own_id, area = entry.get("id"), entry.get("area")
        self.ids.append(own_id if _is_integer(own_id) else _NO_ID)
        self.image_ids.append(entry["image_id"])
        self.category_ids.append(entry["category_id"])
        self.boxes.extend(entry["bbox"])
        self.areas.append(float("nan") if area is None else area)
        self.crowd.append(bool(entry.get("iscrowd")))

    def find(
        self, image_ids: Sequence[int], category_ids: Sequence[int], ann_file: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find each annotation's image and category in ascending lists of ids.

        Returns:
            Two (M,) int64 arrays: places in `image_ids` and in `category_ids`.

        Raises:
            InputError: an image or a category is not in its list.
        """
        images, no_image = _find_ids(self.image_ids, image_ids)
        categories, no_category = _find_ids(self.category_ids, category_ids)
        unknown = np.flatnonzero(no_image | no_category)
        if len(unknown):
            row = int(unknown[0])
            which = self.ids[row] if self.ids[row] != _NO_ID else f"number {row + 1}"
            image_id, category_id = self.image_ids[row], self.category_ids[row]
            fault = _unknown_image(image_id) if no_image[row] else _unknown_category(image_id, category_id)
            raise InputError(f"'{ann_file}': annotation {which} {fault}.")
        return images, categories

    def boxes_array(self) -> np.ndarray:
        return np.array(self.boxes, dtype=np.float64).reshape(-1, 4)

    def areas_array(self) -> np.ndarray:
        """Return the (M,) areas, with the box's area where the file gives none."""
        areas, boxes = np.array(self.areas, dtype=np.float64), self.boxes_array()
        return np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas)

    def unique_ids(self) -> np.ndarray:
        """Return the file's ids if they are unique and positive, and 1 to M otherwise."""
        ids = np.array(self.ids, dtype=np.int64)
        # pycocotools marks unmatched detections with id 0, so a detection of annotation 0 would count as false.
        if (ids > 0).all() and len(np.unique(ids)) == len(ids):
            return ids
        return np.arange(1, len(ids) + 1, dtype=np.int64)


def _find_ids(wanted: "array[int]", ascending: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each wanted id in `ascending`, and a mask of the ids that are not there."""
    ids, known = np.array(wanted, dtype=np.int64), np.array(ascending, dtype=np.int64)
    places = np.searchsorted(known, ids)
    beyond = places == len(known)
    return places, beyond | (np.append(known, 0)[places] != ids)


def _check_unique(ids: Sequence[int], kind: str, ann_file: str) -> None:
    (most, count), *_ = Counter(ids).most_common(1)
    if count > 1:
        raise InputError(f"'{ann_file}': {kind} id {most} appears {count} times: give each {kind} its own id.")


def _integer(entry: Entry, key: str, owner: str, ann_file: str, least: int | None = None) -> int:
    """Return the integer under `key` of the entry that messages call `owner`."""
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not _is_integer(value) or (least is not None and value < least):
        kind = "an integer" if least is None else f"an integer of at least {least}"
        state = f"has {key} {value!r}" if key in entry else f"has no {key}"
        raise InputError(f"'{ann_file}': {owner} {state}: give {kind}.")
    return value


def _text(entry: Entry, key: str, owner: str, ann_file: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        state = f"has {key} {value!r}" if key in entry else f"has no {key}"
        raise InputError(f"'{ann_file}': {owner} {state}: give a text that is not empty.")
    return value


def _is_integer(value: object) -> TypeGuard[int]:
    # Larger integers do not fit into the int64 arrays.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_finite(value: float) -> bool:
    # math.isfinite would raise an error for integers beyond the range of floats.
    return abs(value) <= sys.float_info.max


def _annotation_fault(entry: Entry) -> str | None:
    """Return the first fault of an annotation and the remedy as the end of a sentence, or None if it has no fault."""
    image_id, category_id, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if not _is_integer(image_id):
        return _unknown_image(image_id)
    if not _is_integer(category_id):
        return _unknown_category(image_id, category_id)
    on_image = f"of image {image_id}"
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
        return f"{on_image} has bbox {box!r}: give four numbers, x, y, width and height in pixels"
    if not all(map(_is_finite, box)):
        return f"{on_image} has bbox {box!r}, which is not finite: give its true x, y, width and height"
    if box[2] < 0 or box[3] < 0:
        return f"{on_image} has bbox {box!r} of negative width or height: write it as x, y, width and height"
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"{on_image} has iscrowd {entry['iscrowd']!r}: give 0 or 1"
    area = entry.get("area")
    if area is not None and (type(area) not in (int, float) or not _is_finite(area)):
        return f"{on_image} has area {area!r}: give a number of square pixels or leave it out"
    return None


def _unknown_image(image_id: object) -> str:
    return f"names image {image_id!r}, which 'images' does not list: add the image or remove the annotation"


def _unknown_category(image_id: int, category_id: object) -> str:
    return (
        f"of image {image_id} names category {category_id!r}, which 'categories' does not list: "
        "add the category or remove the annotation"
    )
