"""Datasets of images with boxes, described by files in COCO format."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import Dataset

from fcos_core.data.box_checks import check_boxes
from fcos_core.data.coco_json import COCOTable, read_coco_json
from fcos_core.data.image_file import MAX_PIXELS, UnreadableImageError, read_image
from fcos_core.data.labels import check_classes, order_note, own_names
from fcos_core.errors import InputError
from fcos_core.published_scripts.dataset_names import PublishedDatasetNames
from fcos_core.structures.bounding_box import BoxList

Item = tuple[Image.Image, BoxList]


class COCODataset(PublishedDatasetNames, Dataset[Item]):
    """The images of one annotation file in the order of their ids; an item is (image, boxes).

    Args:
        img_dir: folder that the file names are relative to.
        ann_file: JSON in COCO format.
        is_train: keep only images with an annotation, crowd ones included, wider and higher than 1 pixel.
        keep_empty: with `is_train`, keep the other images too.
        check_files: check once that the file of every kept image exists, and that its annotated size may be read.
        max_pixels: width times height of the largest image that is read (INPUT.MAX_PIXELS).
        label_order: "id" or "file": the file's own labels follow ascending category ids, or the file's list.
        fewer_categories: the file may list fewer categories than `use_labels` gets.
        continuous: pixels of the boxes, see `BoxList`.

    Attributes:
        image_sizes: (N, 2) int64, width and height in pixels that the annotation file gives.
        has_annotations: False for a file without the key `annotations`.
        category_names: in the order of the labels; the first name has label 1. Categories of one name are told apart
            by their ids.
        contiguous_to_category_id: label (1-based) to category id of the file; without the labels that it lacks.
        order_note: what to say about the file's own labels with weights that have no class names; may be empty.
        fewer_categories: see Args.

    Raises:
        InputError: the folder or an image file is missing; the annotation file is missing or wrong (see
            `read_coco_json`) or none of its boxes is in its image (see `check_boxes`); the dataset is for training and
            has no annotations or no image to keep.
    """

    def __init__(
        self,
        img_dir: str,
        ann_file: str,
        is_train: bool = False,
        keep_empty: bool = False,
        check_files: bool = True,
        label_order: str = "id",
        fewer_categories: bool = False,
        max_pixels: int = MAX_PIXELS,
        continuous: bool = False,
    ) -> None:
        self.img_dir = img_dir
        self.ann_file = ann_file
        self._max_pixels, self._continuous = max_pixels, continuous
        self._table = read_coco_json(ann_file)
        check_boxes(self._table, is_train)
        self._kept = kept_rows(self._table, is_train, keep_empty)
        self.image_sizes = self._table.sizes[self._kept]
        self.has_annotations = self._table.has_annotations
        self.fewer_categories = fewer_categories
        self.order_note = order_note(self._table, label_order)
        self._own_names = own_names(self._table, label_order)
        self.use_labels(tuple(self._own_names.values()))
        if not os.path.isdir(img_dir):
            raise InputError(
                f"The image folder '{img_dir}' does not exist (looked at {os.path.abspath(img_dir)}): correct "
                "DATASETS.DATA_DIR or the dataset's img_dir."
            )
        if check_files:
            self._check_files()
            self._check_pixels()

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Item:
        """Read the RGB image `index`, 8 bits a channel, and its `ground_truth`.

        Raises:
            UnreadableImageError: the file cannot be read.
            InputError: the image has another size than its annotation says.
        """
        width, height = self.image_sizes[index].tolist()
        try:
            image = read_image(self.image_path(index), (width, height), self._max_pixels)
        except UnreadableImageError as error:
            others = "take it out of the annotations or set DATALOADER.SKIP_UNREADABLE True"
            raise UnreadableImageError(error.fault, f"{error.remedy}, {others}") from error
        return image, self.ground_truth(index)

    def use_labels(self, names: Sequence[str], owner: str = "the detector") -> None:
        """Give the categories the labels of `names`, whose first is label 1, whatever their ids and order in the file.

        Raise InputError, in which `owner` has these names, if the file lists other categories. A file without
        categories takes any names.
        """
        if self._own_names:
            check_classes(self.ann_file, list(self._own_names.values()), names, owner, self.fewer_categories)
        self.category_names = tuple(names)
        label_of = {name: label for label, name in enumerate(names, start=1)}
        labels = {label_of[name]: category_id for category_id, name in self._own_names.items()}
        self.contiguous_to_category_id = dict(sorted(labels.items()))
        # The table numbers categories by ascending ids.
        self._labels = np.array([label_of[self._own_names[i]] for i in self._table.category_ids], dtype=np.int64)

    def image_id(self, index: int) -> int:
        """Return the annotation file's id of image `index`."""
        return int(self._table.image_ids[self._kept[index]])

    def image_path(self, index: int) -> str:
        """Return the path of image `index`."""
        return os.path.join(self.img_dir, str(self._table.file_names[self._kept[index]]))

    def get_img_info(self, index: int) -> dict[str, Any]:
        """Return what the annotation file says of image `index`: id, file_name, and width and height in pixels."""
        width, height = self.image_sizes[index].tolist()
        name = str(self._table.file_names[self._kept[index]])
        return {"id": self.image_id(index), "file_name": name, "width": width, "height": height}

    def ground_truth(self, index: int) -> BoxList:
        """Return the boxes of image `index` to learn, see `boxes_to_learn`."""
        return boxes_to_learn(self._table, self._kept[index], self._labels, self._continuous)

    @cached_property
    def coco(self) -> COCO:
        """Index the whole annotation file, without polygons, as pycocotools' evaluation takes it."""
        coco = COCO()
        coco.dataset = self._table.as_coco_dict()
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def _check_files(self) -> None:
        present: dict[str, set[str]] = {}
        missing: list[int] = []
        for index in range(len(self)):
            path = self.image_path(index)
            try:
                os.fsencode(path)
            except UnicodeEncodeError as error:
                advice = "" if error.encoding == "utf-8" else "set the environment variable PYTHONUTF8=1, or "
                raise InputError(
                    f"'{self.ann_file}': the path of image {self.image_id(index)}, {path!a}, cannot be a file name in "
                    f"the encoding {error.encoding}: {advice}rename it."
                ) from error
            folder, name = os.path.split(path)
            if folder not in present:
                present[folder] = _list_folder(folder)
            if name not in present[folder]:
                missing.append(index)
        if missing:
            first = missing[0]
            raise InputError(
                f"{len(missing)} of {len(self)} images of '{self.ann_file}' are missing, the first is image "
                f"{self.image_id(first)}, {os.path.abspath(self.image_path(first))}: restore them, correct the "
                "dataset's img_dir or set DATALOADER.SKIP_UNREADABLE True."
            )

    def _check_pixels(self) -> None:
        pixels = self.image_sizes.prod(axis=1)
        if len(pixels) and pixels.max() > self._max_pixels:
            largest = int(pixels.argmax())
            raise InputError(
                f"Image {self.image_id(largest)} of '{self.ann_file}', {self.image_path(largest)}, has "
                f"{pixels[largest]} pixels, more than INPUT.MAX_PIXELS {self._max_pixels}: set INPUT.MAX_PIXELS "
                f"{pixels[largest]}, take the image out of the annotations or set DATALOADER.SKIP_UNREADABLE True."
            )


def boxes_to_learn(table: COCOTable, image: int, labels: np.ndarray, continuous: bool) -> BoxList:
    """Return the boxes of an image: xyxy float32 clipped to the image, field "labels" int64 (N,).

    Crowd boxes are left out, and boxes that are empty after conversion and clipping.

    Args:
        table: annotations.
        image: row of the image in them.
        labels: (C,) int64, label of each category by ascending id.
        continuous: see `BoxList`.
    """
    rows = np.arange(table.offsets[image], table.offsets[image + 1])
    rows = rows[~table.crowd[rows]]
    width, height = table.sizes[image].tolist()
    boxes = torch.from_numpy(table.boxes[rows].astype(np.float32))
    target = BoxList(boxes, (width, height), mode="xywh", continuous=continuous)
    target.add_field("labels", torch.from_numpy(labels[table.labels[rows] - 1]))
    return target.convert("xyxy").clip_to_image(remove_empty=True)


def kept_rows(table: COCOTable, is_train: bool, keep_empty: bool) -> np.ndarray:
    """Return the rows of the images to keep, ascending; see `COCODataset`."""
    every = np.arange(len(table.image_ids))
    if not is_train:
        return every
    if not table.has_annotations:
        raise InputError(
            f"'{table.ann_file}' has no 'annotations': it can be tested on but not trained on; take its dataset "
            "out of DATASETS.TRAIN."
        )
    if keep_empty:
        return every
    usable = (table.boxes[:, 2:] > 1).all(axis=1)
    before = np.concatenate([[0], np.cumsum(usable)])
    kept: np.ndarray = every[before[table.offsets[1:]] > before[table.offsets[:-1]]]
    if not len(kept):
        raise InputError(
            f"'{table.ann_file}' has no image with a box wider and higher than 1 pixel to train on: give it "
            "boxes or set DATALOADER.KEEP_EMPTY_IMAGES True."
        )
    return kept


def _list_folder(folder: str) -> set[str]:
    """Return the names in `folder`; a folder that cannot be listed has no usable image, so return no names."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()
