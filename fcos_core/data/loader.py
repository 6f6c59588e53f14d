"""Batches read by worker processes; what goes wrong there arrives here as a plain sentence."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcos_core.data.coco import COCODataset, ConcatCOCODataset
from fcos_core.data.collate import Batch, BatchCollator
from fcos_core.data.image_file import UnreadableImageError
from fcos_core.data.samplers import SampleKey, TestBatchSampler, TrainBatchSampler, sample_rng
from fcos_core.data.transforms import Transform
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList

_SIGNAL_SECONDS = 1
# The thread that pins memory ends where a worker does while it hands a batch over.
_WORKER_DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited unexpectedly")

logger = logging.getLogger(__name__)

# What is done about an image that cannot be read.
STOP, REPLACE, LEAVE_OUT = "stop", "replace", "leave out"


@dataclass(frozen=True)
class Read:
    """What reading one sample gave.

    Attributes:
        sample: (pixels (H, W, 3) uint8, boxes, dataset index), or None for an image left out.
        padded_size: (height, width) that its batch is padded to at least.
        unreadable: paths that could not be read on the way.
        error: ends the run.
    """

    sample: tuple[Tensor, BoxList, int] | None = None
    padded_size: tuple[int, int] = (0, 0)
    unreadable: tuple[str, ...] = ()
    error: InputError | None = None


class SampleReader(Dataset):
    """Reads and transforms samples by `SampleKey`; all chance comes from (seed, iteration, slot).

    Args:
        dataset: gives (PIL image, boxes) by index.
        transform: makes them (pixels (H, W, 3) uint8, boxes).
        seed: at least 0.
        unreadable: STOP; REPLACE by the next readable index; or LEAVE_OUT.
    """

    def __init__(
        self,
        dataset: COCODataset | ConcatCOCODataset,
        transform: Transform,
        seed: int,
        unreadable: str = STOP,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.unreadable = unreadable

    def __getitem__(self, key: SampleKey) -> Read:
        """Never raises `InputError`: torch would bury its sentence in the worker's traceback."""
        skipped: list[str] = []
        tries = len(self.dataset) if self.unreadable == REPLACE else 1
        for index in ((key.index + step) % len(self.dataset) for step in range(tries)):
            try:
                image, target = self.dataset[index]
            except UnreadableImageError as error:
                if self.unreadable == STOP:
                    return Read(error=error)
                skipped.append(self.dataset.image_path(index))
                continue
            except InputError as error:
                return Read(error=error)
            # Other processes do not know what takes an unreadable image's place: it fits the size they pad to.
            limit = key.padded_size[::-1] if skipped else None
            image, target = self.transform(image, target, sample_rng(self.seed, key.iteration, key.slot), limit)
            return Read((image, target, index), key.padded_size, tuple(skipped))
        if self.unreadable == REPLACE:
            return Read(error=_none_readable(self.dataset))
        return Read(unreadable=tuple(skipped))


@dataclass(frozen=True)
class ReadBatch:
    """A batch as a worker hands it over; `batch` is None when no sample could be read."""

    batch: Batch | None
    unreadable: tuple[str, ...]
    error: InputError | None

    def pin_memory(self) -> ReadBatch:
        """Called by torch's DataLoader, which does not look into a batch by itself."""
        if self.batch is None:
            return self
        images, targets, indices = self.batch
        return replace(self, batch=(images.pin_memory(), [target.pin_memory() for target in targets], indices))


class _ReadCollator:
    def __init__(self, collate: BatchCollator) -> None:
        self.collate = collate

    def __call__(self, reads: Sequence[Read]) -> ReadBatch:
        unreadable = tuple(path for read in reads for path in read.unreadable)
        error = next((read.error for read in reads if read.error), None)
        samples = [read.sample for read in reads if read.sample]
        batch = self.collate(samples, reads[0].padded_size) if samples and not error else None
        return ReadBatch(batch, unreadable, error)


class BatchLoader:
    """Iterates over batches: (ByteImages, list of BoxList, list of dataset indices).

    Its length is that of `batch_sampler`; a batch of which no image can be read is left out of the iteration.

    Args:
        reader: reads single samples.
        batch_sampler: gives the keys of each batch.
        collate: makes a batch of samples.
        num_workers: processes that read, started anew by each iteration; 0: this process.
        pin_memory: give batches in page-locked memory, for a GPU.

    Attributes:
        dataset: what the indices are of.
        num_unreadable: times that this process was given something else, or nothing, for an unreadable image.

    Raises:
        InputError: while iterating: an image cannot be read, or none of the dataset can where they are skipped.
    """

    def __init__(
        self,
        reader: SampleReader,
        batch_sampler: TrainBatchSampler | TestBatchSampler,
        collate: BatchCollator,
        num_workers: int,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = reader.dataset
        self.batch_sampler = batch_sampler
        self.num_unreadable = 0
        self._loader = DataLoader(
            reader,
            batch_sampler=batch_sampler,
            collate_fn=_ReadCollator(collate),
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            # DataLoader draws a seed for each iteration; not from the generator that the model draws from.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        delivered = False
        with naming_killed_readers():
            for read in _fetch(self._loader):
                self._count(read.unreadable)
                if read.error is not None:
                    raise read.error
                if read.batch is not None:
                    delivered = True
                    yield read.batch
        if len(self) and not delivered and not _any_readable(self.dataset):
            raise _none_readable(self.dataset)

    def _count(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.num_unreadable += 1
            logger.warning("Skipped the unreadable image '%s'; %d so far.", path, self.num_unreadable)


def _start_worker(_: int) -> None:
    """A forked worker has the handlers of its parent, which save and leave: signals to it are not its parent's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fetch(loader: DataLoader) -> Iterator[ReadBatch]:
    reads = iter(loader)
    while True:
        try:
            read = next(reads, None)
        except (OSError, EOFError) as error:
            if not loader.num_workers:
                raise
            # A worker's end of a pipe has closed; torch names the worker when the signal of its death comes.
            time.sleep(_SIGNAL_SECONDS)
            raise _died(str(error)) from error
        if read is None:
            return
        yield read


@contextlib.contextmanager
def naming_killed_readers() -> Iterator[None]:
    """Around whatever runs while a `BatchLoader` is iterated over.

    torch raises from a signal's handler, wherever the main thread may be at the time.

    Raises:
        InputError: a process that reads images was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not _WORKER_DIED.search(str(error)):
            raise
        raise _died(str(error).partition("\n")[0]) from error


def _died(what: str) -> InputError:
    return InputError(
        f"A process that reads images has died: {what.rstrip(' .')}. If nobody killed it, memory ran out, which "
        "`dmesg` shows: lower DATALOADER.NUM_WORKERS; for a bus error give the machine or container more shared "
        "memory (/dev/shm)."
    )


def _any_readable(dataset: COCODataset | ConcatCOCODataset) -> bool:
    """Another process's share may be readable where this one's is not."""
    for index in range(len(dataset)):
        try:
            dataset[index]
        except UnreadableImageError:
            continue
        return True
    return False


def _none_readable(dataset: COCODataset | ConcatCOCODataset) -> InputError:
    return InputError(
        f"None of the {len(dataset)} images of the dataset can be read, such as '{dataset.image_path(0)}': "
        "restore them or correct the dataset's img_dir."
    )
