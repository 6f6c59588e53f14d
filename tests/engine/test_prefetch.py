"""Batches copied ahead: the same ones, errors in their place, and memory that is not overwritten too early."""

import pytest
import torch

from fcos_core.engine.prefetch import one_ahead, prefetch
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList, PixelNormalization

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
AS_THEY_ARE = PixelNormalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), to_bgr255=True)


def batch(number, side=8, pin=False):
    images = ByteImages(torch.full((2, 3, side, side), number, dtype=torch.uint8), [(side, side)] * 2, AS_THEY_ARE)
    target = BoxList([[0.0, 0, number, 1]], (side, side))
    target.add_field("labels", torch.tensor([number]))
    return (images.pin_memory(), [target.pin_memory()], [number]) if pin else (images, [target], [number])


def test_for_the_cpu_batches_pass_as_they_are():
    batches = [batch(number) for number in range(3)]
    assert all(given is own for given, own in zip(prefetch(batches, "cpu"), batches, strict=True))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_each_is_prepared_before_the_one_ahead_of_it_is_given(count):
    events = []
    for item in one_ahead(range(count), lambda item: events.append(("prepared", item)) or item):
        events.append(("given", item))
    prepared, given = ([item for kind, item in events if kind == name] for name in ("prepared", "given"))
    assert prepared == given == list(range(count))
    for item in range(1, count):
        assert events.index(("prepared", item)) < events.index(("given", item - 1))
    # One ahead and no more.
    for item in range(2, count):
        assert events.index(("prepared", item)) > events.index(("given", item - 2))


@pytest.mark.parametrize("at_fault", ["source", "prepare"])
def test_an_error_comes_after_what_was_before_it(at_fault):
    def source():
        yield from (0, 1)
        if at_fault == "source":
            raise InputError("no third")
        yield 2

    def prepare(item):
        if item == 2:
            raise InputError("no third")
        return item

    given = []
    with pytest.raises(InputError, match="no third"):
        given.extend(one_ahead(source(), prepare))
    assert given == [0, 1]


@needs_gpu
@pytest.mark.parametrize("pin", [True, False])
def test_batches_arrive_on_the_gpu_as_bytes(pin):
    for number, (images, (target,), rest) in enumerate(prefetch([batch(n, pin=pin) for n in range(5)], "cuda")):
        assert images.pixels.is_cuda and images.pixels.dtype == torch.uint8 and images.pixels.eq(number).all()
        assert target.bbox.is_cuda and target.bbox[0, 2] == number and target.get_field("labels").tolist() == [number]
        assert target.get_field("labels").is_cuda and rest == [number]
        assert images.normalize().tensors.eq(number).all()
    floats = ImageList(torch.ones(1, 3, 4, 4), [(4, 4)])
    ((images, _, _),) = prefetch([(floats, [], None)], "cuda:0")
    assert images.tensors.is_cuda and images.image_sizes == [(4, 4)]


@needs_gpu
def test_a_batch_is_there_when_it_is_used_and_stays_until_then():
    # 16 MB a batch, and the GPU kept busy for longer than a copy takes before it reads each: a copy that is used
    # before it is there, or given memory that is still to be read, shows as another number.
    sums = []
    for images, _, (number,) in prefetch((batch(n, side=1664, pin=True) for n in range(1, 20)), "cuda"):
        torch.cuda._sleep(20_000_000)
        sums.append((number, images.pixels.float().mean()))
        del images
    assert [mean.item() for _, mean in sums] == pytest.approx([number for number, _ in sums])


@needs_gpu
def test_the_host_does_not_wait_for_the_gpu():
    batches = [batch(n, pin=True) for n in range(4)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(prefetch(batches, "cuda"))) == 4
    finally:
        torch.cuda.set_sync_debug_mode("default")
