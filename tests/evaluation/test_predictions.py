"""Test packed detections: nothing is lost, they take few bytes, and parts of several ranks can be joined."""

import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_core.engine.inference import gather_predictions
from fcos_core.evaluation import Predictions
from fcos_core.structures.bounding_box import BoxList


def detections(index: int, count: int) -> BoxList:
    generator = torch.Generator().manual_seed(index)
    boxes = BoxList(torch.rand(count, 4, generator=generator), (100 + index, 50))
    boxes.add_field("scores", torch.rand(count, generator=generator))
    boxes.add_field("labels", torch.randint(1, 81, (count,), generator=generator))
    return boxes


def assert_same(packed, expected):
    assert set(packed) == set(expected) and len(packed) == len(expected)
    for index, boxes in expected.items():
        assert packed[index].size == boxes.size and packed[index].mode == boxes.mode == "xyxy"
        assert torch.equal(packed[index].bbox, boxes.bbox)
        for field in ("scores", "labels"):
            assert torch.equal(packed[index].get_field(field), boxes.get_field(field))


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.integers(0, 99), st.integers(0, 5)))
def test_packed_detections_are_those_put_in(counts):
    expected = {index: detections(index, count) for index, count in counts.items()}
    packed = Predictions.pack(expected)
    assert_same(packed, expected)
    assert list(packed) == sorted(expected)
    assert_same(Predictions.pack(packed), expected)


def test_a_detection_takes_28_bytes():
    packed = Predictions.pack({index: detections(index, 100) for index in range(10)})
    # A box takes four coordinates and a score of 4 bytes and a label of 8; an image an index, a size and a count.
    assert sum(tensor.nbytes for tensor in packed.tensors()) == 10 * (100 * 28 + 8 + 16 + 8)


def test_a_list_has_every_image():
    listed = Predictions.pack({2: detections(2, 3)}).as_list([(60, 50)] * 4)
    assert [len(boxes) for boxes in listed] == [0, 0, 3, 0] and listed[0].size == (60, 50)
    assert torch.equal(listed[2].bbox, detections(2, 3).bbox) and listed[3].fields() == ["scores", "labels"]


def test_unknown_images_are_not_there():
    packed = Predictions.pack({3: detections(3, 2)})
    assert 3 in packed and 2 not in packed
    with pytest.raises(KeyError):
        packed[2]


# The third of three ranks has no image.
SHARES = [[4, 0, 2], [1, 3], []]


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SHARES))
    gathered = gather_predictions(Predictions.pack({index: detections(index, 3 * index) for index in SHARES[rank]}))
    with open(f"{folder}/{rank}.pkl", "wb") as file:
        pickle.dump(gathered and dict(gathered), file)
    dist.destroy_process_group()


def test_processes_hand_their_detections_to_the_first(tmp_path):
    mp.start_processes(work, args=(str(tmp_path),), nprocs=len(SHARES), start_method="forkserver")
    first, *others = (pickle.loads((tmp_path / f"{rank}.pkl").read_bytes()) for rank in range(len(SHARES)))
    assert_same(first, {index: detections(index, 3 * index) for index in range(5)})
    assert others == [None, None]
