"""Decode every image of the datasets once, so that a damaged one shows before the training and not in the middle."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from fcos_core.data.image_file import UnreadableImageError
from fcos_core.data.worker_failures import fetch, pack, start_worker
from fcos_core.errors import InputError
from fcos_core.utils import comm
from fcos_core.utils.progress import progress

# Images that a worker reads before it reports.
_CHUNK = 16
# Longer lists of images would hide the first of them.
_MOST_NAMED = 1000

# Index of the image, what is wrong, and whether an unreadable image may be skipped.
_Fault = tuple[int, str, bool]

logger = logging.getLogger(__name__)


def check_images(datasets: Sequence[Dataset[Any]], num_workers: int, skip_unreadable: bool) -> None:
    """Read every image of `datasets`; the processes of a run share the images.

    Args:
        datasets: give an image by index, or raise InputError.
        num_workers: worker processes of each process; 0: read in this process.
        skip_unreadable: only count and name the images that cannot be read, in the log.

    Raises:
        InputError: images cannot be used; names all of them, in every process.
    """
    images: ConcatDataset[Any] = ConcatDataset(datasets)
    total, rank, world_size = len(images), comm.get_rank(), comm.get_world_size()
    chunks = [range(i, min(i + _CHUNK, total)) for i in range(rank * _CHUNK, total, world_size * _CHUNK)]
    loader = DataLoader(
        _Faults(images),
        sampler=chunks,
        batch_size=None,  # an item is a whole chunk
        num_workers=num_workers,
        worker_init_fn=start_worker,
        # DataLoader draws a seed; it must not come from the generator that the model uses.
        generator=torch.Generator(),
    )
    checked = progress(
        zip(chunks, fetch(loader), strict=True),
        total,
        "Checking images",
        size=lambda item: len(item[0]) * world_size,
        shown=comm.is_main_process(),
    )
    found: list[_Fault] = [fault for _, faults in checked for fault in faults]
    _report(sorted(fault for faults in comm.all_gather_objects(found) for fault in faults), total, skip_unreadable)


class _Faults(Dataset[Any]):
    """The faults of chunks of images."""

    def __init__(self, images: Dataset[Any]) -> None:
        self._images = images

    def __getitem__(self, chunk: range) -> Any:
        faults: list[_Fault] = []
        for index in chunk:
            try:
                self._images[index]
            except UnreadableImageError as error:
                faults.append((index, error.fault, True))
            except InputError as error:
                faults.append((index, str(error).rstrip("."), False))
        return pack(faults)


def _report(faults: list[_Fault], total: int, skip_unreadable: bool) -> None:
    unusable = [fault for fault in faults if not (skip_unreadable and fault[2])]
    if unusable:
        raise InputError(
            f"{len(unusable)} of {total} images cannot be used. {_names(unusable)}. Copy or convert these images, take "
            "them out of the annotations, or set DATALOADER.SKIP_UNREADABLE True to go on without unreadable ones."
        )
    if faults:
        logger.warning("%d of %d images cannot be read and will be skipped. %s.", len(faults), total, _names(faults))
    else:
        logger.info("All %d images can be read.", total)


def _names(faults: list[_Fault]) -> str:
    # An image of several datasets is named once.
    texts = list(dict.fromkeys(text for _, text, _ in faults))
    more = [f"and {len(texts) - _MOST_NAMED} more"] if len(texts) > _MOST_NAMED else []
    return "; ".join([*texts[:_MOST_NAMED], *more])
