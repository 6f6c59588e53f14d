"""Published attributes of a dataset of COCO files."""

from functools import cached_property

import numpy as np


class PublishedDatasetNames:
    """Attributes that published scripts read from a dataset, computed from what `COCODataset` has."""

    # What the class that inherits these names has; see `COCODataset`.
    image_sizes: np.ndarray
    category_names: tuple[str, ...]
    contiguous_to_category_id: dict[int, int]

    def image_id(self, index: int) -> int:
        """Return the annotation file's id of image `index`."""
        raise NotImplementedError

    @cached_property
    def ids(self) -> list[int]:
        """Ids of the images, in the order of their indices."""
        return [self.image_id(index) for index in range(len(self.image_sizes))]

    @cached_property
    def id_to_img_map(self) -> dict[int, int]:
        """From index to id of the annotation file: published code means the index when it says id here."""
        return dict(enumerate(self.ids))

    @property
    def contiguous_category_id_to_json_id(self) -> dict[int, int]:
        """From label (1-based) to category id of the annotation file."""
        return self.contiguous_to_category_id

    @property
    def json_category_id_to_contiguous_id(self) -> dict[int, int]:
        """From category id of the annotation file to label (1-based)."""
        return {category_id: label for label, category_id in self.contiguous_to_category_id.items()}

    @property
    def categories(self) -> dict[int, str]:
        """From category id of the annotation file to name."""
        return {number: self.category_names[label - 1] for label, number in self.contiguous_to_category_id.items()}
