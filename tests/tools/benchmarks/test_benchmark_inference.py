"""Comparison of detections, and the calls of the stages."""

import torch

from benchmarks import inference
from fcos_core.structures.bounding_box import BoxList

CPU = torch.device("cpu")


def detections(*rows):
    boxes = BoxList([row[:4] for row in rows], (64, 64))
    boxes.add_field("scores", torch.tensor([row[4] for row in rows]))
    boxes.add_field("labels", torch.tensor([row[5] for row in rows]))
    return boxes


def test_same_detections_need_box_score_and_label():
    expected = detections((0, 0, 9, 9, 0.9, 1), (5, 5, 20, 20, 0.8, 2), (1, 1, 3, 3, 0.7, 3), (2, 2, 8, 8, 0.6, 4))
    found = detections((5.04, 5, 20, 20, 0.8, 2), (0, 0, 9, 9, 0.9, 7), (1, 1, 3.1, 3, 0.7, 3), (2, 2, 8, 8, 0.61, 4))
    assert inference.same_detections([expected], [expected]) == 1
    assert inference.same_detections([found], [expected]) == 0.25


def test_stages_make_up_the_detector(config, detector, images):
    calls = inference._stage_calls(config, detector, images)
    with torch.no_grad():
        found = {name: call() for name, call in calls.items()}
        expected = detector(images)
    assert [tuple(level.shape[1:]) for level in found["body"]] == [(4 * 2**i, 24 // 2**i, 32 // 2**i) for i in range(4)]
    assert len(found["neck"]) == len(found["head"][0]) == 5
    assert [len(image) for image in found["post-processing, plain"]] == [len(image) for image in expected]
