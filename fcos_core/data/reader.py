"""Read planned batches, and stop at, replace or leave out the images that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fcos_core.data.augment import Source
from fcos_core.data.collate import Batch, BatchCollator, Sample
from fcos_core.data.concat import AnyDataset
from fcos_core.data.image_file import UnreadableImageError
from fcos_core.data.plan import BatchPlan, SamplePlan, Tile
from fcos_core.data.transforms import transform
from fcos_core.data.worker_failures import pack
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList

# From a plan, the index of another image and the batch's padded size to a plan for that image.
Replan = Callable[[SamplePlan, int, tuple[int, int]], SamplePlan]


@dataclass(frozen=True)
class ReadBatch:
    """A batch as a worker hands it over.

    Attributes:
        batch: None if no image could be read or there is an error.
        unreadable: paths of the images that could not be read.
        error: ends the run.
    """

    batch: Batch | None
    unreadable: tuple[str, ...] = ()
    error: InputError | None = None

    def pin_memory(self) -> ReadBatch:
        """Copy the batch to page-locked memory; torch's DataLoader calls this method by its name."""
        if self.batch is None:
            return self
        images, targets, indices = self.batch
        return replace(self, batch=(images.pin_memory(), [target.pin_memory() for target in targets], indices))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle boxes and fields as arrays: each tensor takes a file descriptor of the process that receives it."""
        if self.batch is None:
            return self.__dict__
        images, targets, indices = self.batch
        return {**self.__dict__, "batch": (images, [_as_arrays(target) for target in targets], indices)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["batch"] is not None:
            images, targets, indices = state["batch"]
            state["batch"] = (images, [_as_tensors(*target) for target in targets], indices)
        self.__dict__.update(state)


class BatchReader(Dataset[Any]):
    """Dataset whose items are whole batches, indexed by their plans.

    Args:
        dataset: gives (image, boxes) by index.
        collate: makes a batch of samples.
        skip_unreadable: go on after an image that cannot be read, instead of ending the run.
        replan: plans the next readable image in the place of a skipped one; None: leave skipped images out.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        collate: BatchCollator,
        skip_unreadable: bool = False,
        replan: Replan | None = None,
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.skip_unreadable = skip_unreadable
        self.replan = replan

    def __getitem__(self, plan: BatchPlan) -> Any:
        """Read the batch and return it, a `ReadBatch`, in the form that `worker_failures.fetch` takes."""
        return pack(self.read(plan))

    def read(self, plan: BatchPlan) -> ReadBatch:
        """Read the batch.

        An `InputError` is returned, not raised, because torch would bury its sentence in the worker's traceback.
        """
        unreadable: list[str] = []
        plans = (plan, *plan.views)
        images = zip(*(view.samples for view in plans), strict=True)
        try:
            read = [self._read(views, plan.padded_size, unreadable) for views in images]
        except InputError as error:
            return ReadBatch(None, tuple(unreadable), error)
        samples = [views for views in read if views is not None]
        return ReadBatch(self.collate.gather(samples, plans) if samples else None, tuple(unreadable))

    def _read(
        self, views: tuple[SamplePlan, ...], padded_size: tuple[int, int], unreadable: list[str]
    ) -> list[Sample] | None:
        """Read an image once for all of its views; only training replaces an image, and takes one view."""
        for candidate in self._candidates(views[0], padded_size):
            source = self._source(candidate.index, unreadable)
            if source is not None:
                candidate, others = self._with_others(candidate, source, padded_size, unreadable)
                plans = (candidate, *views[1:])
                return [(*transform(*source, plan, others), candidate.index) for plan in plans]
        if self.replan is not None:
            raise none_readable(self.dataset)
        return None

    def _source(self, index: int, unreadable: list[str]) -> Source | None:
        """Read an image; None if it cannot be read and such images are skipped."""
        try:
            return self.dataset[index]
        except UnreadableImageError:
            if not self.skip_unreadable:
                raise
            unreadable.append(self.dataset.image_path(index))
            return None

    def _with_others(
        self, plan: SamplePlan, source: Source, padded_size: tuple[int, int], unreadable: list[str]
    ) -> tuple[SamplePlan, dict[int, Source]]:
        """Read the other images that an augmentation takes; name readable ones in the plan where they cannot be read.

        From an unreadable image no objects are copied.
        """
        augmentation, sources = plan.augmentation, {plan.index: source}
        if augmentation is None:
            return plan, sources

        def read(index: int) -> bool:
            if index not in sources and (other := self._source(index, unreadable)) is not None:
                sources[index] = other
            return index in sources

        def readable(tile: Tile) -> Tile:
            if read(tile.index):
                return tile
            candidates = self._candidates(replace(plan, index=tile.index, augmentation=None), padded_size)
            other = next(candidate for candidate in candidates if read(candidate.index))
            return tile.with_image(other.index, other.size)

        tiles = (augmentation.tiles[0], *map(readable, augmentation.tiles[1:]))
        mixup = augmentation.mixup and readable(augmentation.mixup)
        if augmentation.copies is not None:
            read(augmentation.copies.index)
        return replace(plan, augmentation=replace(augmentation, tiles=tiles, mixup=mixup)), sources

    def _candidates(self, plan: SamplePlan, padded_size: tuple[int, int]) -> Iterator[SamplePlan]:
        """Yield the planned image, then every other image of the dataset as its replacement."""
        yield plan
        if self.replan is not None:
            for step in range(1, len(self.dataset)):
                yield self.replan(plan, (plan.index + step) % len(self.dataset), padded_size)


def any_readable(dataset: AnyDataset) -> bool:
    """Return True if an image of the whole dataset can be read; another rank's share may be readable."""
    for index in range(len(dataset)):
        try:
            dataset[index]
        except UnreadableImageError:
            continue
        return True
    return False


def none_readable(dataset: AnyDataset) -> InputError:
    """Make the error that says that no image of the dataset can be read."""
    return InputError(
        f"None of the {len(dataset)} images of the dataset can be read, such as '{dataset.image_path(0)}': "
        "restore them or correct the dataset's img_dir."
    )


def _as_arrays(boxes: BoxList) -> tuple[Any, ...]:
    fields = boxes.extra_fields.items()
    arrays = {name: value.numpy() for name, value in fields if isinstance(value, Tensor)}
    others = {name: value for name, value in fields if not isinstance(value, Tensor)}
    return boxes.bbox.numpy(), boxes.size, boxes.mode, boxes.continuous, arrays, others


def _as_tensors(
    bbox: np.ndarray,
    size: tuple[int, int],
    mode: str,
    continuous: bool,
    arrays: dict[str, np.ndarray],
    others: dict[str, Any],
) -> BoxList:
    boxes = BoxList(torch.from_numpy(bbox), size, mode, continuous)
    for name, value in {**{name: torch.from_numpy(array) for name, array in arrays.items()}, **others}.items():
        boxes.add_field(name, value)
    return boxes
