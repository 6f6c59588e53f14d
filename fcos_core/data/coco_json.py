"""An annotation file in COCO format, checked and kept as arrays."""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcos_core.errors import InputError


@dataclass(frozen=True)
class COCOTable:
    """N images in the order of their ids and their M annotations, those of image i at offsets[i]:offsets[i + 1].

    Attributes:
        ann_file: where it was read.
        image_ids: (N,) int64, ascending.
        sizes: (N, 2) int64, width and height in pixels.
        file_names: (N,) str, relative to the image folder.
        offsets: (N + 1,) int64.
        annotation_ids: (M,) int64, unique and positive: the file's, or 1 to M where the file's are not so.
        boxes: (M, 4) float64, x, y, width and height in pixels as the file has them.
        labels: (M,) int64, 1-based in the order of the category ids.
        crowd: (M,) bool.
        areas: (M,) float64, square pixels of the object's mask; of its box where the file gives none.
        category_ids: ascending.
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
    category_names: tuple[str, ...]
    has_annotations: bool

    def as_coco_dict(self) -> dict[str, Any]:
        """Images, categories and annotations as a COCO file has them."""
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
    """Read and check the annotation file `ann_file`.

    Polygons are not kept. An annotation may lack `id`, `area` and `iscrowd`; the key `annotations` may be
    absent, and then `categories` too.

    Raises:
        InputError: the file is missing or not JSON; images, categories or one of their fields are missing; an
            id stands twice; an annotation names an unknown image or category, or its box is not four finite
            numbers with a width and a height of at least 0.
    """
    tree = _load(ann_file)
    has_annotations = "annotations" in tree
    image_ids, sizes, file_names = _images(tree, ann_file)
    categories = _categories(tree, ann_file) if has_annotations or "categories" in tree else {}
    category_ids = tuple(sorted(categories))
    entries = _section(tree, "annotations", ann_file) if has_annotations else []
    position = {image_id: number for number, image_id in enumerate(image_ids)}
    label_of = {category_id: label for label, category_id in enumerate(category_ids, start=1)}
    for number, entry in enumerate(entries):
        fault = _annotation_fault(entry, position, label_of)
        if fault:
            which = entry.get("id", f"number {number + 1} (it has no id)")
            raise InputError(f"'{ann_file}': annotation {which} {fault}.")
    image_of = np.array([position[entry["image_id"]] for entry in entries], dtype=np.int64)
    order = np.argsort(image_of, kind="stable")
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    labels = np.array([label_of[entry["category_id"]] for entry in entries], dtype=np.int64)
    crowd = np.array([bool(entry.get("iscrowd")) for entry in entries], dtype=bool)
    counts = np.bincount(image_of, minlength=len(image_ids))
    return COCOTable(
        ann_file=ann_file,
        image_ids=np.array(image_ids, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64),
        file_names=np.array(file_names),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        annotation_ids=_annotation_ids(entries)[order],
        boxes=boxes[order],
        labels=labels[order],
        crowd=crowd[order],
        areas=_areas(entries, boxes)[order],
        category_ids=category_ids,
        category_names=tuple(categories[category_id] for category_id in category_ids),
        has_annotations=has_annotations,
    )


def _load(ann_file: str) -> dict[str, Any]:
    if not os.path.isfile(ann_file):
        raise InputError(
            f"The annotation file '{ann_file}' does not exist (looked at {os.path.abspath(ann_file)}): "
            "correct DATASETS.DATA_DIR or the dataset's ann_file."
        )
    try:
        with open(ann_file, "rb") as file:
            tree = json.loads(file.read(), object_hook=_without_polygons)
    except json.JSONDecodeError as error:
        raise InputError(
            f"The annotation file '{ann_file}' is not valid JSON at line {error.lineno}, column {error.colno} "
            f"(character {error.pos}): {error.msg}. It may be cut short: copy or export it again."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"The annotation file '{ann_file}' cannot be read as JSON: {error}. Copy or export it again."
        ) from error
    if not isinstance(tree, dict):
        raise InputError(
            f"The annotation file '{ann_file}' must be a JSON object with images, annotations and categories; "
            f"it is a {type(tree).__name__}: give the ground truth in COCO format."
        )
    return tree


def _without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # most of the file's bulk, dropped before it piles up
    return entry


def _section(tree: Mapping[str, Any], key: str, ann_file: str) -> list[dict[str, Any]]:
    entries = tree.get(key)
    if not isinstance(entries, list):
        state = f"'{key}' that is not a list" if key in tree else f"no '{key}'"
        raise InputError(f"The annotation file '{ann_file}' has {state}: give a COCO file, where '{key}' is a list.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(
                f"'{ann_file}': entry {number + 1} of '{key}' is {entry!r}: each must be an object with fields."
            )
    return entries


def _images(tree: Mapping[str, Any], ann_file: str) -> tuple[list[int], list[tuple[int, int]], list[str]]:
    rows = []
    for number, entry in enumerate(_section(tree, "images", ann_file)):
        image_id = _integer(entry, "id", f"entry {number + 1} of 'images'", ann_file)
        what = f"image {image_id}"
        size = tuple(_integer(entry, side, what, ann_file, least=1) for side in ("width", "height"))
        rows.append((image_id, size, _text(entry, "file_name", what, ann_file)))
    if not rows:
        raise InputError(f"The annotation file '{ann_file}' lists no images: give one that does.")
    _check_unique([row[0] for row in rows], "image", ann_file)
    image_ids, sizes, names = zip(*sorted(rows), strict=True)
    return list(image_ids), list(sizes), list(names)


def _categories(tree: Mapping[str, Any], ann_file: str) -> dict[int, str]:
    rows = []
    for number, entry in enumerate(_section(tree, "categories", ann_file)):
        category_id = _integer(entry, "id", f"entry {number + 1} of 'categories'", ann_file)
        rows.append((category_id, _text(entry, "name", f"category {category_id}", ann_file)))
    if not rows:
        raise InputError(f"The annotation file '{ann_file}' lists no categories: name at least one.")
    _check_unique([row[0] for row in rows], "category", ann_file)
    return dict(rows)


def _check_unique(ids: Sequence[int], what: str, ann_file: str) -> None:
    (most, count), *_ = Counter(ids).most_common(1)
    if count > 1:
        raise InputError(f"'{ann_file}': {what} id {most} stands {count} times: give each {what} its own id.")


def _integer(entry: Mapping[str, Any], key: str, what: str, ann_file: str, least: int | None = None) -> int:
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not _is_integer(value) or (least is not None and value < least):
        kind = "an integer" if least is None else f"an integer of at least {least}"
        state = f"has {key} {value!r}" if key in entry else f"has no {key}"
        raise InputError(f"'{ann_file}': {what} {state}: give it {kind}.")
    return value


def _text(entry: Mapping[str, Any], key: str, what: str, ann_file: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        state = f"has {key} {value!r}" if key in entry else f"has no {key}"
        raise InputError(f"'{ann_file}': {what} {state}: give it a text.")
    return value


def _is_integer(value: Any) -> bool:
    # Arrays hold ids as int64.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_finite(value: float) -> bool:
    return abs(value) <= sys.float_info.max  # unlike math.isfinite, takes integers of any length


def _annotation_fault(
    entry: Mapping[str, Any], image_ids: Mapping[int, int], category_ids: Mapping[int, int]
) -> str | None:
    """What is wrong with one annotation and what to do about it, as the end of a sentence."""
    image_id, category_id, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if not _is_integer(image_id) or image_id not in image_ids:
        return f"names image {image_id!r}, which 'images' does not list: add that image or remove it"
    on_image = f"of image {image_id}"
    if not _is_integer(category_id) or category_id not in category_ids:
        return (
            f"{on_image} names category {category_id!r}, which 'categories' does not list: "
            "add that category or remove it"
        )
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


def _annotation_ids(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    ids = [entry.get("id") for entry in entries]
    # pycocotools takes id 0 for "unmatched", so that id would cost a true detection.
    if all(_is_integer(i) and i > 0 for i in ids) and len(set(ids)) == len(ids):
        return np.array(ids, dtype=np.int64)
    return np.arange(1, len(ids) + 1, dtype=np.int64)


def _areas(entries: Sequence[Mapping[str, Any]], boxes: np.ndarray) -> np.ndarray:
    given = [entry.get("area") for entry in entries]
    box_areas = (boxes[:, 2] * boxes[:, 3]).tolist()
    areas = [own if area is None else area for area, own in zip(given, box_areas, strict=True)]
    return np.array(areas, dtype=np.float64)
