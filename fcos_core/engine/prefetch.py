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
    """Copy each batch to a CUDA `device` one batch ahead, on a separate stream; yield CPU batches unchanged.

    An error that `batches` raises is raised again after all earlier batches were yielded.

    Args:
        batches: (images, boxes, anything) each; the host does not wait for copies from pinned memory.
        device: the device that computes, on the stream that is current when a batch is asked for.
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
    """Yield `prepare(item)` of each item, which is called before the previous result is yielded.

    An error of `items` or `prepare` is raised after everything before it has been yielded.
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
