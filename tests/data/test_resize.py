"""Each rule gives the sizes and the pixels of its framework."""

import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fcos_core.config import cfg
from fcos_core.data.build import build_collator, build_planner
from fcos_core.data.resize import Resize
from fcos_core.data.transforms import transform
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList

RULES = ("fcos", "detectron2", "mmdet", "torchvision")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(size, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def rgb_config():
    config = cfg.clone()
    config.INPUT.RESIZE, config.INPUT.TO_BGR255 = "torchvision", False
    config.INPUT.PIXEL_MEAN, config.INPUT.PIXEL_STD = list(MEAN), list(STD)
    return config


@pytest.mark.parametrize(
    ("size", "fcos", "detectron2", "mmdet", "torchvision"),
    [
        # 640 * 800 / 480 = 1066.67: truncated or rounded.
        ((640, 480), (1066, 800), (1067, 800), (1067, 800), (1066, 800)),
        ((480, 640), (800, 1066), (800, 1067), (800, 1067), (800, 1066)),
        # The cap counts: 1333 / 500 = 2.666, 187 * 2.666 = 498.54. "fcos" rounds that, and 499 * 500 / 187 = 1334.2.
        ((500, 187), (1334, 499), (1333, 499), (1333, 499), (1333, 498)),
        # 1333 / 900 = 1.4811, 500 * 1.4811 = 740.56.
        ((900, 500), (1333, 741), (1333, 741), (1333, 741), (1333, 740)),
        ((800, 800), (800, 800), (800, 800), (800, 800), (800, 800)),
    ],
)
def test_sizes(size, fcos, detectron2, mmdet, torchvision):
    found = [Resize(rule).size(size, 800, 1333) for rule in RULES]
    assert found == [fcos, detectron2, mmdet, torchvision]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1500), st.integers(1, 2000))
def test_no_rule_goes_over_the_cap_or_below_a_pixel(width, height, min_size, max_size):
    for rule in RULES[1:]:
        sides = Resize(rule).size((width, height), min_size, max_size)
        assert min(sides) >= 1 and max(sides) <= max_size and min(sides) <= min_size


@given(st.integers(2, 60), st.integers(2, 60), st.integers(2, 60), st.integers(30, 100))
def test_torchvision_is_torchvision_s(width, height, min_size, max_size):
    pixels = noise((width, height))
    theirs = GeneralizedRCNNTransform(min_size, max_size, list(MEAN), list(STD))
    try:
        images, _ = theirs([pixels.permute(2, 0, 1) / 255])
    except RuntimeError:  # torchvision cannot resize to 0 pixels
        return
    config = rgb_config()
    config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST = min_size, max_size
    batch = build_planner(config, np.array([(width, height)]), is_train=False).plan(0, [0])
    found, boxes = transform(Image.fromarray(pixels.numpy()), BoxList([], (width, height)), batch.samples[0])
    ours = build_collator(config)([(found, boxes, 0)], batch.padded_size)[0].normalize()
    assert ours.image_sizes == images.image_sizes
    # Normalization before or after resizing is the same up to rounding.
    torch.testing.assert_close(ours.tensors, images.tensors, rtol=0, atol=1e-5)


def test_torchvision_s_size_follows_the_rounding_of_its_own_arithmetic():
    # In floating point 47 * (96 / 47) and the like are just below the whole number.
    for width in range(32, 100):
        theirs = torch.nn.functional.interpolate(
            torch.empty(1, 1, 31, width),
            scale_factor=min(31 / 31, 96 / width),
            mode="bilinear",
            recompute_scale_factor=True,
        )
        assert Resize("torchvision").size((width, 31), 31, 96) == (theirs.shape[3], theirs.shape[2])


@given(*[st.integers(1, 90)] * 4, st.integers(0, 2**31))
def test_detectron2_is_pil_s_and_mmdet_is_opencv_s(width, height, new_width, new_height, seed):
    pixels, size = noise((width, height), seed), (new_width, new_height)
    pil = Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(Resize("detectron2")(pixels, size).numpy(), np.asarray(pil))
    # OpenCV reads images as BGR; the channels are resized each for itself.
    opencv = cv2.resize(np.ascontiguousarray(pixels.numpy()[..., ::-1]), size, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(Resize("mmdet")(pixels, size).numpy()[..., ::-1], opencv)


@pytest.mark.parametrize("rule", RULES)
def test_the_loader_groups_pads_and_resizes_by_the_rule_of_the_config(rule):
    config = cfg.clone()
    config.INPUT.RESIZE = rule
    config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MAX_SIZE_TRAIN, config.INPUT.FLIP_PROB_TRAIN = (31,), 96, 1.0
    config.DATALOADER.PAD_TO_FIXED_SIZE = True
    planner = build_planner(config, np.array([(47, 15)]), is_train=True)
    # 47 * 31 / 15 = 97.1 is over the cap: 96 / 47 * 15 = 30.6; 47 * (96 / 47) is 95.99... in floating point.
    size = {"fcos": (97, 31), "torchvision": (95, 30)}.get(rule, (96, 31))
    batch = planner.plan(1, [0])
    assert batch.samples[0].size == size and batch.samples[0].resize == Resize(rule)
    # "fcos" may go over the cap, and the batch with it.
    assert batch.padded_size == planner.own_padded_size(0) == (32, 128 if rule == "fcos" else 96)
    pixels = noise((47, 15))
    found, boxes = transform(Image.fromarray(pixels.numpy()), BoxList([[0.0, 0, 46, 14]], (47, 15)), batch.samples[0])
    assert torch.equal(found, Resize(rule)(pixels, size).flip(1)) and boxes.size == size
    assert found.dtype == (torch.float32 if rule == "torchvision" else torch.uint8)


def test_without_opencv_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"RESIZE mmdet .* install opencv-python"):
        Resize("mmdet")
    for rule in ("fcos", "detectron2", "torchvision"):
        Resize(rule)
