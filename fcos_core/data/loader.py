"""Iterate over batches that worker processes read."""

import logging
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader

from fcos_core.data.collate import Batch
from fcos_core.data.reader import BatchReader, any_readable, none_readable
from fcos_core.data.samplers import TestBatchSampler, TrainBatchSampler
from fcos_core.data.worker_failures import fetch, start_worker

logger = logging.getLogger(__name__)


class BatchLoader:
    """Iterable over batches: (ByteImages, list of BoxList, list of dataset indices).

    Its length is the length of `batch_sampler`. A batch without a readable image is left out of the iteration.

    Args:
        reader: reads a planned batch.
        batch_sampler: gives the plans.
        num_workers: processes that read, started anew by each iteration; 0: read in this process.
        pin_memory: give batches in page-locked memory, for a GPU.

    Attributes:
        dataset: the dataset that the indices belong to.
        num_unreadable: times that this process replaced or left out an unreadable image.

    Raises:
        InputError: during the iteration: an image cannot be read; or unreadable images are skipped and no image of
            the dataset can be read; or a worker died, or has no shared memory or file descriptors left.
    """

    def __init__(
        self,
        reader: BatchReader,
        batch_sampler: TrainBatchSampler | TestBatchSampler,
        num_workers: int,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = reader.dataset
        self.num_unreadable = 0
        self._loader = DataLoader(
            reader,
            sampler=batch_sampler,
            batch_size=None,  # an item of the reader is a whole batch
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
            # DataLoader draws a seed for each iteration; it must not come from the generator that the model uses.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        delivered = False
        for read in fetch(self._loader):
            self._count(read.unreadable)
            if read.error is not None:
                raise read.error
            if read.batch is not None:
                delivered = True
                yield read.batch
        if len(self) and not delivered and not any_readable(self.dataset):
            raise none_readable(self.dataset)

    def _count(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.num_unreadable += 1
            logger.warning("Skipped the unreadable image '%s'; %d so far.", path, self.num_unreadable)
