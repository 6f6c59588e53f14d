"""Post-processing in fixed shapes against post-processing of as many candidates as there are."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fcos_core.modeling.fcos.box_coder import make_clip_max
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.modeling.fcos.postprocess import FCOSPostProcessor, to_box_lists

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
    rows = processor.fixed_size(*levels, make_clip_max(SIZES).to(levels[0][0].device))
    return rows, to_box_lists(rows, SIZES)


@given(
    seed=st.integers(0, 1000),
    steps=st.sampled_from([1, 2, 5, 1000]),
    shift=st.sampled_from([-20.0, -6.0, -3.0, 3.0]),
    top_n=st.sampled_from([1, 2, 7, 1000]),
    kept=st.sampled_from([1, 5, 100]),
    iou=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
)
@example(seed=0, steps=1, shift=3.0, top_n=1000, kept=100, iou=0.6)  # every pair is a candidate, all scores equal
@example(seed=0, steps=1000, shift=-20.0, top_n=1000, kept=100, iou=0.6)  # none is
def test_equals_the_detections_of_a_call(seed, steps, shift, top_n, kept, iou):
    processor = FCOSPostProcessor(0.05, top_n, iou, kept)
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
    clip_max = make_clip_max(SIZES).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows = processor.fixed_size(*levels, clip_max)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check_equal(to_box_lists(rows, SIZES), processor(*levels, SIZES))
