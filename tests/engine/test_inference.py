"""Detections of a dataset do not depend on how its images are put into batches and shared among processes."""

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_core.data.build import build_collator, build_view_planners
from fcos_core.data.loader import BatchLoader
from fcos_core.data.reader import BatchReader
from fcos_core.data.samplers import TestBatchSampler
from fcos_core.engine.inference import compute_predictions
from fcos_core.engine.test_time_augmentation import make_tested_detector
from fcos_core.modeling.detector import build_detection_model
from fcos_core.structures.bounding_box import BoxList

# Landscape, portrait, square, and longer ones; each padded to one of five sizes, in an order that mixes them.
SIZES = [(80, 60), (60, 80), (64, 64), (80, 60), (60, 80), (100, 60), (60, 100), (80, 60), (70, 80), (80, 60)]


class Pictures:
    """A dataset of smooth random images without boxes."""

    image_sizes = np.array(SIZES)

    def get_img_info(self, index):
        return {"width": SIZES[index][0], "height": SIZES[index][1]}

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        coarse = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        boxes = BoxList([], SIZES[index])
        boxes.add_field("labels", torch.zeros(0, dtype=torch.int64))
        return Image.fromarray(coarse).resize(SIZES[index], Image.Resampling.BICUBIC), boxes


@pytest.fixture(scope="module")
def detect(small_config):
    """Return a function (images of a batch, processes, views) -> detections by dataset index, over all processes."""
    config = small_config.clone()
    config.merge_from_list(["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 107, "MODEL.FCOS.NUM_CLASSES", 4])
    config.merge_from_list(["TEST.BBOX_AUG.H_FLIP", True, "TEST.BBOX_AUG.SCALES", (48, 80)])
    # Random weights score every class near 0.5, and differ by more than rounding between locations.
    config.MODEL.FCOS.PRIOR_PROB = 0.5
    torch.manual_seed(0)
    detector = build_detection_model(config)
    torch.nn.init.normal_(detector.rpn.head.cls_logits.weight, std=0.5)

    def run(ims_per_batch, processes, augmented=False):
        config.TEST.BBOX_AUG.ENABLED = augmented
        model = make_tested_detector(config, detector)
        planners = build_view_planners(config, Pictures.image_sizes)
        found = {}
        for rank in range(processes):
            sampler = TestBatchSampler(planners, ims_per_batch, rank, processes)
            loader = BatchLoader(BatchReader(Pictures(), build_collator(config)), sampler, num_workers=0)
            found.update(compute_predictions(model, loader, "cpu"))
        return found

    return run


@pytest.fixture(scope="module")
def alone(detect):
    return {augmented: detect(1, 1, augmented) for augmented in (False, True)}


@pytest.mark.parametrize(
    ("ims_per_batch", "processes", "augmented"),
    [(1, 2, False), (3, 1, False), (3, 2, False), (8, 1, False), (8, 2, False), (3, 2, True), (8, 1, True)],
)
def test_detections_do_not_depend_on_the_batch_or_the_number_of_processes(
    detect, alone, ims_per_batch, processes, augmented
):
    found = detect(ims_per_batch, processes, augmented)
    assert sorted(found) == list(range(len(SIZES)))
    for index, boxes in found.items():
        expected = alone[augmented][index]
        assert boxes.size == expected.size == SIZES[index] and len(boxes) == len(expected) > 10
        # Rounding of float32: with images of mixed sizes in a batch, scores differ by up to 0.08.
        scores, expected_scores = boxes.get_field("scores"), expected.get_field("scores")
        torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(boxes.bbox, expected.bbox, rtol=0, atol=1e-3)
        assert torch.equal(boxes.get_field("labels"), expected.get_field("labels"))
