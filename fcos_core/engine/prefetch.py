"""Batches copied to the GPU while it computes on the ones before."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImageList, ImageList

Batch = tuple[ImageList, list[BoxList], Any]
Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def prefetch(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """The same batches, each copied to a CUDA `device` one batch ahead, on a stream of its own; on a CPU as they are.

    Bytes stay bytes: a `ByteImageList` is normalized by its own `to`. An error of `batches` is raised where the
    batch that it kept from coming would be given.

    Args:
        batches: (images, boxes, anything) each; the host does not wait for copies from pinned memory.
        device: where they are used, on the stream that is current when each is asked for.
    """
    device = torch.device(device)
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)

    def copy(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        images, targets, rest = batch
        move = images.copy_to if isinstance(images, ByteImageList) else images.to
        # The copy may be given the memory of an earlier batch, which work queued until now may still read.
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            moved = move(device, non_blocking=True), [target.to(device, non_blocking=True) for target in targets], rest
            return moved, stream.record_event()

    for batch, copied in one_ahead(batches, copy):
        torch.cuda.current_stream(device).wait_event(copied)
        yield batch


def one_ahead(items: Iterable[Item], prepare: Callable[[Item], Prepared]) -> Iterator[Prepared]:
    """`prepare(item)` of each item, called before the one ahead of it is given.

    An error of `items` or `prepare` is raised after everything before it has been given.
    """
    source = iter(items)

    def take() -> tuple[Prepared | None, Exception | None] | None:
        try:
            return prepare(next(source)), None
        except StopIteration:
            return None
        except Exception as error:
            return None, error

    ahead = take()
    while ahead is not None:
        prepared, error = ahead
        if error is not None:
            raise error
        ahead = take()
        yield prepared
