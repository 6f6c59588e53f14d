"""Tasks run in order, or on CUDA streams within `forked_streams`."""

import itertools
from functools import partial

import pytest
import torch

from fcos_core.utils import streams
from fcos_core.utils.streams import forked_streams, parallel

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA streams need a GPU")


def test_results_are_in_the_order_of_the_tasks():
    ran = []
    assert parallel([partial(lambda i: ran.append(i) or i * i, i) for i in (3, 1, 2)]) == [9, 1, 4]
    assert ran == [3, 1, 2]
    assert parallel([]) == []


def test_without_forked_streams_no_cuda_function_is_called(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", None)
    assert parallel([lambda: 1, lambda: 2]) == [1, 2]


def test_forked_streams_end_when_their_block_raises(monkeypatch):
    with pytest.raises(ZeroDivisionError), forked_streams():
        raise ZeroDivisionError
    monkeypatch.setattr(torch.cuda, "current_stream", None)
    assert parallel([lambda: 1, lambda: 2]) == [1, 2]


def test_side_streams_differ_from_the_main_stream(monkeypatch):
    class Stream(int):
        device_index = 0

    handed_out = itertools.cycle(range(4))  # PyTorch hands out its 32 streams in turn as well
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(next(handed_out)))
    monkeypatch.setattr(streams, "_side_streams", {})
    assert [streams._sides(Stream(3), count) for count in (1, 2, 3)] == [[0], [0, 1], [0, 1, 2]]
    assert [streams._sides(Stream(1), 3) for _ in range(2)] == [[0, 2, 3]] * 2


@needs_gpu
def test_first_task_runs_on_the_main_stream_and_each_other_task_on_its_own():
    with forked_streams():
        for _ in range(2):
            used = parallel([torch.cuda.current_stream] * 3)
    assert used[0] == torch.cuda.current_stream()
    assert len({stream.cuda_stream for stream in used}) == 3


@needs_gpu
@pytest.mark.parametrize("captured", [False, True], ids=["queued", "captured"])
def test_freed_memory_is_not_reused_before_its_readers_are_done(captured):
    # Long chains over many forks free their temporaries and inputs as early as possible. If a stream reused a block
    # too early, the result would change.
    def chain(x, factor):
        for _ in range(20):
            x = (x.roll(1, 0) * factor + x.flip(1)).sin()
        return x

    def network(x):
        for _ in range(10):
            parts = parallel([partial(chain, x * (i + 1), 1.0) for i in range(4)])
            x = parallel([partial(torch.add, parts[0], parts[1]), partial(torch.add, parts[2], parts[3])])
            x = (x[0] + x[1]) / 10
        return x

    x = torch.rand(2048, 2048, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    expected = network(x)
    if not captured:
        with forked_streams():
            results = [network(x) for _ in range(5)]
    else:
        graph, results = torch.cuda.CUDAGraph(), []
        with torch.cuda.graph(graph), forked_streams():
            result = network(x)
        for _ in range(5):
            graph.replay()
            results.append(result.clone())
    for result in results:
        torch.testing.assert_close(result, expected)
