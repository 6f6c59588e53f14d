"""Published `data.datasets`: a dataset class to inherit from, and where PATHS_CATALOG's factories are looked up."""

from collections.abc import Callable
from typing import Any

from fcos_core.data import coco

# Python takes a module with a path for a package: `fcos_core.data.datasets.evaluation` lies below this one.
__path__: list[str] = []


class COCODataset(coco.COCODataset):
    """`data.coco.COCODataset` with the published arguments and items (image, boxes, index).

    Args:
        ann_file: JSON in COCO format.
        root: folder that the file names are relative to.
        remove_images_without_annotations: keep only images to train on.
        transforms: takes and returns (PIL image, boxes); None: items are as in the files.
    """

    def __init__(
        self,
        ann_file: str,
        root: str,
        remove_images_without_annotations: bool,
        transforms: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    ) -> None:
        super().__init__(root, ann_file, is_train=remove_images_without_annotations)
        self.transforms = transforms

    def __getitem__(self, idx: int) -> tuple[Any, Any, int]:  # type: ignore[override]
        """Read image `idx` and its boxes, and transform them."""
        image, boxes = super().__getitem__(idx)
        if self.transforms is not None:
            image, boxes = self.transforms(image, boxes)
        return image, boxes, idx
