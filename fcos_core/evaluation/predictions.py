"""Keep the detections of many images in a few tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fcos_core.structures.bounding_box import BoxList


class Predictions(Mapping[int, BoxList]):
    """Mapping from dataset index to detections, at 28 bytes a box; I images with M boxes in total.

    Args:
        indices: (I,) int64, dataset index of each image.
        sizes: (I, 2) int64, width and height in pixels of the image that the boxes are on.
        counts: (I,) int64, number of boxes of each image.
        boxes: (M, 4) xyxy in inclusive pixels, image after image in the order of `indices`.
        scores: (M,) float.
        labels: (M,) int64.
    """

    def __init__(
        self, indices: Tensor, sizes: Tensor, counts: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor
    ) -> None:
        self.indices = indices
        self.sizes = sizes
        self.counts = counts
        self.boxes = boxes
        self.scores = scores
        self.labels = labels
        self._rows = {index: row for row, index in enumerate(indices.tolist())}
        self._ends = counts.cumsum(0)

    @classmethod
    def pack(cls, predictions: Mapping[int, BoxList]) -> Predictions:
        """Copy detections with fields "scores" and "labels", in the order of their indices."""
        indices = sorted(predictions)
        lists = [predictions[index].convert("xyxy").with_pixels(continuous=False) for index in indices]
        return cls(
            torch.tensor(indices, dtype=torch.int64),
            torch.tensor([boxes.size for boxes in lists], dtype=torch.int64).reshape(-1, 2),
            torch.tensor([len(boxes) for boxes in lists], dtype=torch.int64),
            torch.cat([boxes.bbox for boxes in lists]) if lists else torch.zeros(0, 4),
            torch.cat([boxes.get_field("scores") for boxes in lists]) if lists else torch.zeros(0),
            torch.cat([boxes.get_field("labels") for boxes in lists]) if lists else torch.zeros(0, dtype=torch.int64),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the arguments of the class; concatenating those of several parts, one by one, joins the parts."""
        return self.indices, self.sizes, self.counts, self.boxes, self.scores, self.labels

    def __getitem__(self, index: int) -> BoxList:
        row = self._rows[index]
        part = slice(int(self._ends[row] - self.counts[row]), int(self._ends[row]))
        width, height = self.sizes[row].tolist()
        boxes = BoxList(self.boxes[part], (width, height))
        boxes.add_field("scores", self.scores[part])
        boxes.add_field("labels", self.labels[part])
        return boxes

    def as_list(self, image_sizes: Sequence[Sequence[int]]) -> list[BoxList]:
        """Return the detections of every image of a dataset, as published code writes them to predictions.pth.

        `image_sizes` gives (width, height) of each image; an image without an entry, an unreadable one, has no boxes.
        """
        indices = enumerate(image_sizes)
        return [
            self[index] if index in self._rows else _no_boxes((width, height)) for index, (width, height) in indices
        ]

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _no_boxes(size: tuple[int, int]) -> BoxList:
    boxes = BoxList(torch.zeros(0, 4), size)
    boxes.add_field("scores", torch.zeros(0))
    boxes.add_field("labels", torch.zeros(0, dtype=torch.int64))
    return boxes
