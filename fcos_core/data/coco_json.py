"""Read an annotation file in COCO format, check it and keep it as arrays."""

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcos_core.data.json_fields import (
    Entry,
    box_fault,
    is_integer,
    numbered_entries,
    read_integer,
    read_text,
    shown,
    state,
)
from fcos_core.data.json_stream import explain_broken_json, read_members
from fcos_core.errors import InputError

# Stands for the id of an annotation without an id or with an id that is not an integer.
_NO_ID = -(2**63)
# COCO's metrics ignore an object of a larger area, in square pixels, and so would every AP.
_MOST_AREA = 1e10

logger = logging.getLogger(__name__)

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


# Tables that `read_ahead` has read, by path, each with the stamp of its file.
_ahead: dict[str, tuple[tuple[int, ...], COCOTable]] = {}


def read_ahead(ann_file: str) -> COCOTable:
    """Read as `read_coco_json` does, and let the next `read_coco_json` of the file, if it is unchanged, take the table.

    COCO's annotations take seconds to read. They are wanted twice, first for the config that says how they are used.
    """
    table = read_coco_json(ann_file)
    _ahead[os.path.abspath(ann_file)] = (_stamp(ann_file), table)
    return table


def _stamp(path: str) -> tuple[int, ...]:
    state = os.stat(path)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def read_coco_json(ann_file: str) -> COCOTable:
    """Read and check the annotation file `ann_file`, an entry at a time.

    Polygons are not kept. An annotation may lack `id`, `area` and `iscrowd`. An integer may be written as 7.0. The key
    `annotations` may be absent, and then `categories` too.

    Raises:
        InputError: the file is missing or not JSON; a section stands twice; images, categories or one of their fields
            are missing; two entries have the same id; an annotation names an unknown image or category, or its box is
            not four numbers of pixels with a width and a height of at least 0; another number is of a wrong type, sign
            or range.
    """
    stamp, read = _ahead.pop(os.path.abspath(ann_file), (None, None))
    if read is not None and os.path.isfile(ann_file) and stamp == _stamp(ann_file):
        return read
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
        annotation_ids=annotations.unique_ids(ann_file)[order],
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
        fault = "is not a file" if os.path.exists(ann_file) else "does not exist"
        raise InputError(
            f"The annotation file '{ann_file}' {fault} (looked at {os.path.abspath(ann_file)}): "
            "correct DATASETS.DATA_DIR or the dataset's ann_file."
        )
    sections = _Sections()
    seen: set[str] = set()
    with explain_broken_json("annotation file", ann_file), open(ann_file, "rb") as file:
        for key, value in read_members(file):
            if key is None:
                kind = "list" if isinstance(value, Iterator) else "single value"
                raise InputError(
                    f"The annotation file '{ann_file}' must be a JSON object with images, annotations and categories; "
                    f"it is a {kind}: give the ground truth in COCO format."
                )
            if key in seen:
                raise InputError(f"The annotation file '{ann_file}' has '{key}' twice: make one of them.")
            seen.add(key)
            if key == "images":
                sections.images = _read_images(numbered_entries(value, key, ann_file), ann_file)
            elif key == "categories":
                sections.categories = _read_categories(numbered_entries(value, key, ann_file), ann_file)
            elif key == "annotations":
                sections.annotations = _read_annotations(numbered_entries(value, key, ann_file), ann_file)
    return sections


def _no_section(key: str, ann_file: str) -> InputError:
    return InputError(f"The annotation file '{ann_file}' has no '{key}': give a COCO file, where '{key}' is a list.")


def _read_images(entries: NumberedEntries, ann_file: str) -> list[ImageRow]:
    """Return the images in the order of their ids."""
    rows = []
    for number, entry in entries:
        image_id = read_integer(entry, "id", f"entry {number} of 'images'", ann_file)
        owner = f"image {image_id}"
        width = read_integer(entry, "width", owner, ann_file, least=1)
        height = read_integer(entry, "height", owner, ann_file, least=1)
        rows.append((image_id, (width, height), read_text(entry, "file_name", owner, ann_file)))
    if not rows:
        raise InputError(f"The annotation file '{ann_file}' lists no images: give a file that does.")
    _check_unique([row[0] for row in rows], "image", ann_file)
    return sorted(rows)


def _read_categories(entries: NumberedEntries, ann_file: str) -> dict[int, str]:
    """Return the category names by id."""
    rows = []
    for number, entry in entries:
        category_id = read_integer(entry, "id", f"entry {number} of 'categories'", ann_file)
        rows.append((category_id, read_text(entry, "name", f"category {category_id}", ann_file)))
    if not rows:
        raise InputError(f"The annotation file '{ann_file}' lists no categories: name at least one.")
    _check_unique([row[0] for row in rows], "category", ann_file)
    return dict(rows)


def _read_annotations(entries: NumberedEntries, ann_file: str) -> "_Annotations":
    annotations = _Annotations()
    for number, entry in entries:
        fault = _annotation_fault(entry)
        if fault:
            which = shown(entry["id"]) if "id" in entry else f"number {number} (it has no id)"
            raise InputError(f"'{ann_file}': annotation {which} {fault}.")
        annotations.append(entry)
    return annotations


class _Annotations:
    """Columns of annotations in the order of the file; each annotation has passed `_annotation_fault`."""

    def __init__(self) -> None:
        self.ids, self.image_ids, self.category_ids = array("q"), array("q"), array("q")
        self.boxes, self.areas = array("d"), array("d")
        self.crowd = bytearray()
        self._odd_id = ""  # what an annotation has whose id is not an integer

    def append(self, entry: Entry) -> None:
        own_id, area = entry.get("id"), entry.get("area")
        if is_integer(own_id):
            self.ids.append(int(own_id))
        else:
            self.ids.append(_NO_ID)
            self._odd_id = self._odd_id or state(entry, "id")
        self.image_ids.append(int(entry["image_id"]))
        self.category_ids.append(int(entry["category_id"]))
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
        return np.where(np.isnan(areas), np.minimum(boxes[:, 2] * boxes[:, 3], _MOST_AREA), areas)

    def unique_ids(self, ann_file: str) -> np.ndarray:
        """Return the file's ids if they are unique and positive, and 1 to M otherwise."""
        ids = np.array(self.ids, dtype=np.int64)
        # pycocotools marks unmatched detections with id 0, so a detection of annotation 0 would count as false.
        if (ids > 0).all() and len(np.unique(ids)) == len(ids):
            return ids
        reason = f"one {self._odd_id}" if self._odd_id else "they repeat or are below 1"
        logger.info("The annotations of '%s' are numbered anew, from 1, because of their ids: %s.", ann_file, reason)
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


def _annotation_fault(entry: Entry) -> str | None:
    """Return the first fault of an annotation and the remedy as the end of a sentence, or None if it has no fault."""
    if not is_integer(entry.get("image_id")):
        return f"{state(entry, 'image_id')}: give the id of an image, an integer that fits into 64 bits"
    on_image = f"of image {entry['image_id']}"
    if not is_integer(entry.get("category_id")):
        return f"{on_image} {state(entry, 'category_id')}: give the id of a category, an integer that fits into 64 bits"
    fault = box_fault(entry.get("bbox"))
    if fault:
        owned = f"has bbox {shown(entry['bbox'])}" if "bbox" in entry else "has no bbox"
        return f"{on_image} {owned}{fault}"
    if entry.get("iscrowd") not in (None, 0, 1):
        return f"{on_image} {state(entry, 'iscrowd')}: give 0 or 1, or leave it out"
    area = entry.get("area")
    if area is not None and (type(area) not in (int, float) or not 0 <= area <= _MOST_AREA):
        return f"{on_image} {state(entry, 'area')}: give 0 to {_MOST_AREA:.0f} square pixels, or leave it out"
    return None


def _unknown_image(image_id: int) -> str:
    return f"names image {image_id}, which 'images' does not list: add the image or remove the annotation"


def _unknown_category(image_id: int, category_id: int) -> str:
    return (
        f"of image {image_id} names category {category_id}, which 'categories' does not list: "
        "add the category or remove the annotation"
    )
