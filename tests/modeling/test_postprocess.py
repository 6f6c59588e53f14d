"""Post-processing in fixed shapes against post-processing of as many candidates as there are, and against the rules."""

import itertools
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fcos_core.modeling.fcos.box_coder import BoxCoder
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.modeling.fcos.postprocess import FCOSPostProcessor
from fcos_core.modeling.fcos.score import ScoreRule

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPES, STRIDES, CLASSES = [(6, 8), (3, 4), (1, 1)], [8, 16, 32], 3
SIZES = [(48, 64), (41, 50)]


def outputs(seed, steps, shift, dtype=torch.float32, device="cpu"):
    """Head outputs of two images. Logits take only `steps` different values, so that many scores are equal."""
    generator = torch.Generator().manual_seed(seed)

    def level(channels, shape):
        return torch.randint(steps, (len(SIZES), channels, *shape), generator=generator).to(device, dtype) / steps * 6

    logits = [(level(CLASSES, shape) + shift).to(memory_format=torch.channels_last) for shape in SHAPES]
    bbox_reg = [level(4, shape).float() * stride for shape, stride in zip(SHAPES, STRIDES, strict=True)]
    centerness = [level(1, shape) - 3 for shape in SHAPES]
    return compute_locations(logits, STRIDES), logits, bbox_reg, centerness


def check_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one.size, len(one)) == (other.size, len(other))
        for a, b in ((one.bbox, other.bbox), *((one.get_field(f), other.get_field(f)) for f in ("scores", "labels"))):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def fixed(processor, levels):
    rows = processor.fixed_size(*levels, processor.coder.clip_max(SIZES).to(levels[0][0].device))
    return rows, processor.to_box_lists(rows, SIZES)


def with_conventions(threshold, top_n, iou, kept, conventions):
    square_root, on_score, by_class, continuous, after_nms, drop_empty = conventions
    coder, rule = BoxCoder(continuous=continuous), ScoreRule(square_root, on_score, by_class)
    return FCOSPostProcessor(threshold, top_n, iou, kept, coder, rule, after_nms, drop_empty)


@given(
    seed=st.integers(0, 1000),
    steps=st.sampled_from([1, 2, 5, 1000]),
    shift=st.sampled_from([-20.0, -6.0, -3.0, 3.0]),
    top_n=st.sampled_from([1, 2, 7, 1000]),
    kept=st.sampled_from([1, 5, 100]),
    iou=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    conventions=st.tuples(*[st.booleans()] * 6),
)
@example(0, 1, 3.0, 1000, 100, 0.6, (False,) * 6)  # every pair is a candidate, all scores equal
@example(0, 1000, -20.0, 1000, 100, 0.6, (False,) * 6)  # none is
def test_equals_the_detections_of_a_call(seed, steps, shift, top_n, kept, iou, conventions):
    processor = with_conventions(0.05, top_n, iou, kept, conventions)
    levels = outputs(seed, steps, shift)
    rows, found = fixed(processor, levels)
    check_equal(found, processor(*levels, SIZES))
    slots = sum(min(top_n, height * width * CLASSES) for height, width in SHAPES)
    assert rows.shape == (len(SIZES), min(kept, slots), 6)
    for image, detection in zip(rows, found, strict=True):
        assert (image[len(detection) :] == 0).all()


@pytest.mark.parametrize("part", ["logits", "bbox_reg", "centerness"])
def test_not_a_number_is_treated_alike(part):
    levels = outputs(0, 1000, -3.0)
    for level in levels[["locations", "logits", "bbox_reg", "centerness"].index(part)]:
        level[:, 0, 0] = torch.nan
        level[:, 0, -1] = -torch.nan
    processor = FCOSPostProcessor(0.05, 1000, 0.6, 100)
    check_equal(fixed(processor, levels)[1], processor(*levels, SIZES))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_and_boxes_of_half_outputs_are_float32(dtype):
    processor = FCOSPostProcessor(0.05, 1000, 0.6, 100)
    halves = outputs(0, 1000, -3.0, dtype)
    floats = [[level.float() for level in part] for part in halves]
    expected = processor(*floats, SIZES)
    assert len(expected[0]) > 0
    check_equal(processor(*halves, SIZES), expected)
    check_equal(fixed(processor, halves)[1], expected)


def test_images_do_not_suppress_each_other():
    levels = outputs(3, 1000, -3.0)
    processor = FCOSPostProcessor(0.05, 1000, 0.6, 100)
    together = processor(*levels, SIZES)
    for i, size in enumerate(SIZES):
        alone = [levels[0], *([level[i : i + 1] for level in part] for part in levels[1:])]
        check_equal(processor(*alone, [size]), together[i : i + 1])


@needs_gpu
@pytest.mark.parametrize("steps", [2, 1000])
def test_on_a_gpu_without_waiting(steps):
    processor = FCOSPostProcessor(0.05, 7, 0.6, 100)
    levels = outputs(1, steps, -3.0, device="cuda")
    clip_max = processor.coder.clip_max(SIZES).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows = processor.fixed_size(*levels, clip_max)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check_equal(processor.to_box_lists(rows, SIZES), processor(*levels, SIZES))


THRESHOLD, TOP_N, IOU, KEPT = 0.3, 20, 0.4, 12


def candidates_by_the_rules(levels, image, size, square_root, on_score, by_class, continuous, after_nms, drop_empty):
    """List (score, label, box) of an image's candidates in plain Python numbers."""
    found = []
    for locations, logits, distances, quality in zip(*levels, strict=True):
        of_level = []
        cells = (level[image].flatten(1).T.tolist() for level in (logits, distances, quality))
        for (x, y), row, (left, top, right, bottom), (logit,) in zip(locations.tolist(), *cells, strict=True):
            for label, class_logit in enumerate(row, start=1):
                probability = 1 / (1 + math.exp(-class_logit))
                score = probability / (1 + math.exp(-logit))
                score = math.sqrt(score) if square_root else score
                if (score if on_score else probability) > THRESHOLD:
                    rank = probability if by_class else score
                    of_level.append((rank, score, label, (x - left, y - top, x + right, y + bottom)))
        best = sorted(of_level, key=lambda candidate: -candidate[0])[:TOP_N]
        found += [(score, label, box) for _, score, label, box in best]
    if after_nms:
        return found
    found = [(score, label, clipped(box, size, continuous)) for score, label, box in found]
    return [candidate for candidate in found if not drop_empty or has_area(candidate[2], continuous)]


def clipped(box, size, continuous):
    limits = [side - (0 if continuous else 1) for side in (size[1], size[0])] * 2
    return tuple(min(max(value, 0), limit) for value, limit in zip(box, limits, strict=True))


def sides(box, continuous):
    return [box[2] - box[0] + (not continuous), box[3] - box[1] + (not continuous)]


def has_area(box, continuous):
    return min(sides(box, continuous)) > 0


def overlap(box, other, continuous):
    common = (*map(max, box[:2], other[:2]), *map(min, box[2:], other[2:]))
    shared = math.prod(max(side, 0) for side in sides(common, continuous))
    union = math.prod(sides(box, continuous)) + math.prod(sides(other, continuous)) - shared
    return shared / union if union else 0


def detections_by_the_rules(levels, image, size, *conventions):
    continuous, after_nms, drop_empty = conventions[3:]
    kept = []
    for candidate in sorted(candidates_by_the_rules(levels, image, size, *conventions), key=lambda row: -row[0]):
        same_class = [box for _, label, box in kept if label == candidate[1]]
        if all(overlap(box, candidate[2], continuous) <= IOU for box in same_class):
            kept.append(candidate)
    kept = kept[:KEPT]
    if after_nms:
        kept = [(score, label, clipped(box, size, continuous)) for score, label, box in kept]
        kept = [row for row in kept if not drop_empty or has_area(row[2], continuous)]
    return kept


def far_levels():
    """Levels some of whose boxes lie outside their image, because distances to the left and to the top are negative."""
    locations, logits, distances, quality = outputs(5, 1000, -3.0, torch.float64)
    shares = torch.tensor([0.3, 0.3, 1, 1], dtype=torch.float64)[:, None, None]
    return locations, logits, [level * shares - level.amax() / 8 for level in distances], quality


@pytest.mark.parametrize("conventions", list(itertools.product([False, True], repeat=6)))
def test_conventions_are_the_rules(conventions):
    levels = far_levels()
    detections = with_conventions(THRESHOLD, TOP_N, IOU, KEPT, conventions)(*levels, SIZES)
    for image, (found, size) in enumerate(zip(detections, SIZES, strict=True)):
        expected = detections_by_the_rules(levels, image, size, *conventions)
        assert found.continuous is conventions[3] and len(found) == len(expected) > 5
        scores, labels, boxes = (torch.tensor(column, dtype=torch.float64) for column in zip(*expected, strict=True))
        torch.testing.assert_close(found.get_field("labels"), labels.long())
        torch.testing.assert_close(found.get_field("scores"), scores)
        torch.testing.assert_close(found.bbox, boxes)


@pytest.mark.parametrize("place", range(6))
def test_each_convention_changes_detections_of_these_levels(place):
    mmdetection = (False, False, True, True, False, True)
    chosen = [(*mmdetection[:place], value, *mmdetection[place + 1 :]) for value in (False, True)]
    without, with_it = (detections_by_the_rules(far_levels(), 1, SIZES[1], *conventions) for conventions in chosen)
    assert without != with_it
