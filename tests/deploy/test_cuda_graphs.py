"""When a batch shape is captured or dropped, and the TF32 setting. test_compiler.py runs real graphs on a GPU."""

import pytest
import torch
from torch import nn

from fcos_core.deploy.cuda_graphs import GraphPerShape, convolutions_in_tf32
from fcos_core.structures.image_list import ImageList


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("default", [True, False])
def test_tf32_setting_of_pytorch_is_restored(allowed, default, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", default)
    with pytest.raises(ZeroDivisionError), convolutions_in_tf32(allowed):
        # PyTorch raises here if its settings contradict each other.
        nn.functional.conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3))
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32 is default


def events_of(heights, max_graphs):
    """Return a ("run" | "capture" | "replay", height) for each step that batches of these heights cause."""
    events = []

    def run(images):
        events.append(("run", images.tensors.shape[2]))

    def capture(images):
        height = images.tensors.shape[2]
        events.append(("capture", height))
        return lambda _: events.append(("replay", height))

    graphs = GraphPerShape(run, capture, max_graphs)
    for height in heights:
        graphs(ImageList(torch.zeros(1, 3, height, 4), [(height, 4)]))
    return events


def test_second_batch_of_a_shape_captures_a_graph():
    assert events_of([1, 1, 1, 2], 2) == [("run", 1), ("capture", 1), ("replay", 1), ("replay", 1), ("run", 2)]


def test_shapes_seen_once_drop_no_graph():
    assert events_of([1, 1, 2, 3, 4, 1], 1)[-4:] == [("run", 2), ("run", 3), ("run", 4), ("replay", 1)]


def test_least_recently_used_graph_is_dropped():
    # The graph for 3 drops the graph for 2, because the graph for 1 was used later. Then 2 counts as a new shape.
    events = events_of([1, 1, 2, 2, 1, 3, 3, 1, 2, 2], 2)
    assert events[-6:] == [("capture", 3), ("replay", 3), ("replay", 1), ("run", 2), ("capture", 2), ("replay", 2)]


def test_failed_run_does_not_count_as_seen():
    def fails(images):
        raise MemoryError

    graphs = GraphPerShape(fails, lambda images: pytest.fail("captured"), 1)
    for _ in range(2):
        with pytest.raises(MemoryError):
            graphs(ImageList(torch.zeros(1, 3, 4, 4), [(4, 4)]))
