"""A user's own dataset class, with the interface that published code asks for."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor
from torch.utils.data import Dataset

from fcos_core.data.coco import Item
from fcos_core.data.image_file import UnreadableImageError, to_rgb
from fcos_core.data.labels import check_classes
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList

logger = logging.getLogger(__name__)


class OwnDataset(Dataset[Item]):
    """A dataset of the published interface, as `COCODataset` is; an item is (image, boxes).

    The interface is `len(dataset)`, `dataset[index]`, which gives (image, BoxList with the field "labels", index), and
    `dataset.get_img_info(index)`, which gives {"height": pixels, "width": pixels}, and "file_name" if there is one.
    It may have more:

    - `get_groundtruth(index)`, the BoxList of an image in pixels of the image, so that a test need not read the
      images a second time; with a field "difficult", which counts as crowd;
    - `coco`, a pycocotools COCO of the annotations, with `id_to_img_map` and `contiguous_category_id_to_json_id`;
    - `CLASSES`, the names from the background on, or `categories`, a dict from category id to name.

    Args:
        dataset: the user's dataset.
        num_classes: MODEL.FCOS.NUM_CLASSES, which labels must be below; None: not known.
        fewer_categories: the dataset may have fewer classes than `use_labels` gets.

    Attributes:
        image_sizes, has_annotations, category_names, contiguous_to_category_id, fewer_categories, order_note: as in
            `COCODataset`; without names, `category_names` is empty.
        ann_file: name of the class, for messages.

    Raises:
        InputError: the dataset lacks a part of the interface; the message names all that is missing.
    """

    has_annotations = True
    order_note = ""

    def __init__(self, dataset: Any, num_classes: int | None = None, fewer_categories: bool = False) -> None:
        self.dataset = dataset
        self.ann_file = type(dataset).__name__
        missing = [name for name in ("__len__", "__getitem__", "get_img_info") if not hasattr(dataset, name)]
        if missing:
            raise InputError(
                f"The dataset {self.ann_file} lacks {' and '.join(missing)}: add len(dataset), dataset[index] -> "
                '(image, BoxList, index) and get_img_info(index) -> {"height": pixels, "width": pixels}.'
            )
        self.image_sizes = np.array([self._size(index) for index in range(len(dataset))], np.int64).reshape(-1, 2)
        if not len(self.image_sizes):
            raise InputError(f"The dataset {self.ann_file} has no image: len(dataset) is 0.")
        self.num_classes = num_classes
        self.fewer_categories = fewer_categories
        self._own_ids = self._category_ids()
        self._own_names = self._names()
        self.category_names: tuple[str, ...] = ()
        self.contiguous_to_category_id: dict[int, int] = {}
        self.use_labels(tuple(self._own_names.values()))

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> Item:
        """Return image `index` as RGB, 8 bits a channel, and its boxes, xyxy float32, with the field "labels".

        Raises:
            UnreadableImageError: the dataset could not read the file (OSError).
            InputError: the item has another form.
        """
        try:
            image, target = self._item(index)
        except OSError as error:
            remedy = "restore its file, leave it out of the dataset or set DATALOADER.SKIP_UNREADABLE True"
            raise UnreadableImageError(f"{self._place(index)} cannot be read ({error})", remedy) from error
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            raise InputError(
                f"{self._place(index)} is of type {type(image).__name__}: return a PIL image, or an (H, W, 3) uint8 "
                "array in RGB, before any transform. The loader resizes, flips and normalizes it as INPUT says."
            )
        if image.size != target.size or image.size != tuple(self.image_sizes[index]):
            raise InputError(
                f"{self._place(index)} has the size {image.size} (width, height), its BoxList {target.size}, and "
                f"get_img_info says {tuple(self.image_sizes[index].tolist())}: the three must be equal."
            )
        return to_rgb(image, self._place(index)), self._checked(target, index)

    def use_labels(self, names: Sequence[str], owner: str = "the detector") -> None:
        """Give the classes the labels of `names`, whatever their order in the dataset; see `COCODataset.use_labels`.

        A dataset without names keeps its labels.
        """
        own = self._own_names
        if own:
            check_classes(self.ann_file, list(own.values()), names, owner, self.fewer_categories)
        self.category_names = tuple(names)
        label_of = {name: label for label, name in enumerate(names, start=1)}
        self._new_labels = {label: label_of[name] for label, name in own.items()}
        ids = {new: self._own_ids.get(label, label) for label, new in self._new_labels.items()}
        self.contiguous_to_category_id = dict(sorted(ids.items())) or {label: label for label in label_of.values()}

    def image_id(self, index: int) -> int:
        """Return the id that the metrics use for image `index`."""
        return int(self.dataset.id_to_img_map[index]) if self._has_coco else index

    def image_path(self, index: int) -> str:
        """Return the file name of image `index`, or another name for messages."""
        return str(self.dataset.get_img_info(index).get("file_name") or f"image {index} of {self.ann_file}")

    def get_img_info(self, index: int) -> Mapping[str, Any]:
        """Return what the dataset says of image `index`."""
        return self.dataset.get_img_info(index)

    def ground_truth(self, index: int) -> BoxList:
        """Return the boxes of image `index`, xyxy in its own pixels, with "labels" and perhaps "difficult"."""
        if hasattr(self.dataset, "get_groundtruth"):
            target = self.dataset.get_groundtruth(index)
            if not isinstance(target, BoxList):
                raise InputError(f"{self.ann_file}.get_groundtruth({index}) must give a BoxList, not {target!r}.")
        else:
            _, target = self._item(index)
        width, height = self.image_sizes[index].tolist()
        return self._checked(target, index).resize((width, height))

    @cached_property
    def coco(self) -> COCO:
        """Index the boxes of all images as pycocotools' evaluation takes them."""
        if self._has_coco:
            return self.dataset.coco
        if not hasattr(self.dataset, "get_groundtruth"):
            logger.info("%s has no get_groundtruth(index): its %d items are read for it.", self.ann_file, len(self))
        annotations: list[dict[str, Any]] = []
        for index in range(len(self)):
            target = self.ground_truth(index)
            crowd = target.get_field("difficult").tolist() if target.has_field("difficult") else [0] * len(target)
            rows = zip(target.convert("xywh").bbox.tolist(), target.get_field("labels").tolist(), crowd, strict=True)
            for box, label, difficult in rows:
                category_id = self.contiguous_to_category_id.get(label, label)
                entry = {"id": len(annotations) + 1, "image_id": index, "category_id": category_id, "bbox": box}
                annotations.append({**entry, "area": box[2] * box[3], "iscrowd": int(bool(difficult))})
        if not self.category_names:
            highest = max((annotation["category_id"] for annotation in annotations), default=0)
            self.use_labels([f"class {label}" for label in range(1, highest + 1)])
        categories = self._own_names or dict(enumerate(self.category_names, start=1))
        sizes = self.image_sizes.tolist()
        images = [{"id": index, "width": width, "height": height} for index, (width, height) in enumerate(sizes)]
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": label, "name": name} for label, name in categories.items()],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    @property
    def _has_coco(self) -> bool:
        return hasattr(getattr(self.dataset, "coco", None), "getAnnIds") and hasattr(self.dataset, "id_to_img_map")

    def _place(self, index: int) -> str:
        return f"The image of {self.ann_file}[{index}]"

    def _size(self, index: int) -> tuple[int, int]:
        info = self.dataset.get_img_info(index)
        try:
            width, height = int(info["width"]), int(info["height"])
        except (TypeError, KeyError, ValueError):
            width = height = 0
        if width < 1 or height < 1:
            raise InputError(
                f'{self.ann_file}.get_img_info({index}) must give {{"height": pixels, "width": pixels}}, not {info!r}.'
            )
        return width, height

    def _names(self) -> dict[int, str]:
        """Return the dataset's own labels, from 1 on, and their names, all different; {} if it has no names."""
        if classes := getattr(self.dataset, "CLASSES", None):
            names = [str(name).strip() for name in classes[1:]]
        else:
            categories = getattr(self.dataset, "categories", None)
            if self._has_coco and not categories:
                categories = {number: category["name"] for number, category in self.dataset.coco.cats.items()}
            ids = self._own_ids.values() or sorted(categories or {})
            names = [str(categories[category_id]) for category_id in ids] if categories else []
        counts = Counter(names)
        return {i: name if counts[name] == 1 else f"{name} (id {i})" for i, name in enumerate(names, start=1)}

    def _category_ids(self) -> dict[int, int]:
        """Return label (1-based) to category id, in the order of labels; {} for a dataset without COCO's files."""
        if not self._has_coco:
            return {}
        published = getattr(self.dataset, "contiguous_category_id_to_json_id", None)
        return dict(sorted((published or dict(enumerate(sorted(self.dataset.coco.getCatIds()), start=1))).items()))

    def _item(self, index: int) -> tuple[Any, BoxList]:
        item = self.dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) < 2 or not isinstance(item[1], BoxList):
            kinds = [type(part).__name__ for part in item] if isinstance(item, (tuple, list)) else type(item).__name__
            raise InputError(f"{self.ann_file}[{index}] must be (image, BoxList, index); it is of type {kinds}.")
        return item[0], item[1]

    def _checked(self, target: BoxList, index: int) -> BoxList:
        """Return the boxes xyxy without those that are empty, after a check of their labels."""
        labels = target.get_field("labels") if target.has_field("labels") else None
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != target.bbox.shape[:1]:
            raise InputError(f'{self.ann_file}[{index}]: the BoxList needs a field "labels", one integer for each box.')
        highest = len(self._own_names) or (self.num_classes - 1 if self.num_classes else torch.inf)
        if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= highest:
            raise InputError(
                f"{self.ann_file}[{index}] has labels from {int(labels.min())} to {int(labels.max())}; they must be "
                f"from 1 to {highest}, the number of classes without the background."
            )
        kept = target.copy_with_fields(["labels", "difficult"], skip_missing=True).convert("xyxy")
        kept = kept.to(dtype=torch.float32)
        kept.bbox = kept.bbox.clone()  # clipped in place below, and the user may keep the boxes
        own = labels.tolist() if self._new_labels else []
        new = torch.tensor([self._new_labels[label] for label in own]) if own else labels
        kept.add_field("labels", new.long())
        return kept.clip_to_image(remove_empty=True)
