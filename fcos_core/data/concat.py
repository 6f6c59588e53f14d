"""Join datasets for training, and tell the kinds of datasets apart."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from fcos_core.data.coco import COCODataset, Item
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList


class ConcatCOCODataset(Dataset[Item]):
    """Several datasets with the same categories, one after the other; labels are those of the first dataset.

    Datasets that may list fewer categories have the labels of all: the first dataset's, then the second's further ones,
    and so on.

    Args:
        datasets: at least one.

    Attributes:
        datasets: see Args.
        image_sizes: (N, 2) int64, width and height in pixels, of all datasets.
        category_names, order_note, fewer_categories: as a `COCODataset` has them.

    Raises:
        InputError: the names of the categories differ, whatever their ids and order.
    """

    def __init__(self, datasets: Sequence[COCODataset | OwnDataset]) -> None:
        first, *others = datasets
        self.datasets = list(datasets)
        names, self.fewer_categories = first.category_names, first.fewer_categories
        if self.fewer_categories:
            names = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.category_names))
        self.order_note = "\n".join(filter(None, (dataset.order_note for dataset in datasets)))
        self.use_labels(names, f"'{first.ann_file}', which is trained on too" if others else "the detector")
        self.image_sizes = np.concatenate([dataset.image_sizes for dataset in datasets])
        self._ends = list(accumulate(len(dataset) for dataset in datasets))

    def use_labels(self, names: Sequence[str], owner: str = "the detector") -> None:
        """Give the categories of every dataset the labels of `names`; see `COCODataset.use_labels`."""
        for dataset in self.datasets:
            dataset.use_labels(names, owner)
        self.category_names = tuple(names)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Item:
        """Read image `index`; see `COCODataset.__getitem__`."""
        dataset, own_index = self._locate(index)
        return dataset[own_index]

    def ground_truth(self, index: int) -> BoxList:
        """Return the boxes of image `index`; see `COCODataset.ground_truth`."""
        dataset, own_index = self._locate(index)
        return dataset.ground_truth(own_index)

    def image_id(self, index: int) -> int:
        """Return the id of image `index` in its own annotation file; two files may use the same id."""
        dataset, own_index = self._locate(index)
        return dataset.image_id(own_index)

    def image_path(self, index: int) -> str:
        """Return the path of image `index`."""
        dataset, own_index = self._locate(index)
        return dataset.image_path(own_index)

    def get_img_info(self, index: int) -> Mapping[str, Any]:
        """Return what its own annotation file says of image `index`; see `COCODataset.get_img_info`."""
        dataset, own_index = self._locate(index)
        return dataset.get_img_info(own_index)

    def _locate(self, index: int) -> tuple[COCODataset | OwnDataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        number = bisect_right(self._ends, index)
        return self.datasets[number], index - (self._ends[number - 1] if number else 0)


AnyDataset = COCODataset | ConcatCOCODataset | OwnDataset


def as_dataset(dataset: Any) -> AnyDataset:
    """Return the project's own datasets as they are, and any other, subclasses included, as `OwnDataset`."""
    known = type(dataset) in (COCODataset, ConcatCOCODataset, OwnDataset)
    return dataset if known else OwnDataset(dataset)


def check_num_classes(
    dataset: COCODataset | ConcatCOCODataset | OwnDataset, num_classes: int, name: str, advice: str = ""
) -> None:
    """Compare MODEL.FCOS.NUM_CLASSES, which counts the background, with the categories of `dataset`.

    A dataset without annotations and categories is not compared, and one that may list fewer may do so. Nor is the
    number 0, which leaves it to the dataset.

    Args:
        dataset: the dataset to train or test on.
        num_classes: MODEL.FCOS.NUM_CLASSES.
        name: name of the dataset, for the message.
        advice: further sentence for a dataset that lists fewer categories.

    Raises:
        InputError: the numbers differ; the message gives the number to write.
    """
    count = len(dataset.category_names)
    if not count or num_classes in (0, count + 1) or (dataset.fewer_categories and count + 1 < num_classes):
        return
    advice = advice if count + 1 < num_classes else ""
    raise InputError(
        f"MODEL.FCOS.NUM_CLASSES is {num_classes} but dataset {name} has {count} categories: write "
        f"{count + 1} (background counts).{advice and f' {advice}'}"
    )
