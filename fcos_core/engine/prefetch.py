"""Copy batches to the GPU while it computes on the batches before them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList

Batch = tuple[ByteImages | ImageList, list[BoxList], Any]
Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def prefetch(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """Copy each batch to a CUDA `device` one batch ahead, on a separate stream; yield batches for the CPU unchanged.

    The host does not wait for copies from pinned memory. Work on a batch belongs on the stream that is current when
    the batch is yielded. An error that `batches` raises is raised again after all earlier batches were yielded.
    """
    device = torch.device(device)
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)

    def copy(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        images, targets, rest = batch
        # The copy may get the memory of an earlier batch, which work queued until now may still read.
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            moved_images = images.to(device, non_blocking=True)
            moved_targets = [target.to(device, non_blocking=True) for target in targets]
            return (moved_images, moved_targets, rest), stream.record_event()

    for batch, copied in one_ahead(batches, copy):
        torch.cuda.current_stream(device).wait_event(copied)
        yield batch


def one_ahead(items: Iterable[Item], prepare: Callable[[Item], Prepared]) -> Iterator[Prepared]:
    """Yield `prepare(item)` of each item; prepare the next item before a result is yielded.

    An error of `items` or `prepare` is raised after everything before it has been yielded.
    """
    ahead: list[Prepared] = []
    try:
        for prepared in map(prepare, items):
            ahead.append(prepared)
            if len(ahead) == 2:
                yield ahead.pop(0)
    except Exception:
        yield from ahead
        raise
    yield from ahead
