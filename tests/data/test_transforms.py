"""Test sizes, boxes and pixels after the transforms, also against the published preprocessing."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcos_core.config import cfg
from fcos_core.data.build import build_collator, build_planner
from fcos_core.data.image_file import read_image
from fcos_core.data.plan import SamplePlan
from fcos_core.data.resize import Resize
from fcos_core.data.transforms import transform
from fcos_core.structures.bounding_box import BoxList


def noise(size, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def picture(size=(40, 30)) -> tuple[Image.Image, BoxList]:
    target = BoxList([[1.0, 2, 10, 13], [0, 0, size[0] - 1, size[1] - 1]], size)
    target.add_field("labels", torch.tensor([1, 2]))
    return Image.fromarray(noise(size).numpy()), target


def plan(size, flip=False) -> SamplePlan:
    return SamplePlan(0, size, flip, min(size))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # 800 * 640 / 480 = 1066.67, truncated, as in shared/parity/transform.json.
        ((640, 480), (1066, 800)),
        ((480, 640), (800, 1066)),
        # 3 * 800 > 1333: the short side is round(1333 / 3) = 444, the long side 444 * 3.
        ((1500, 500), (1332, 444)),
        # 2.4 * 800 = 1920 > 1333: round(1333 / 2.4 = 555.42) = 555; 555 * 2.4 = 1332.
        ((1200, 500), (1332, 555)),
        # round(1333 / 2.6 = 512.69) = 513; 513 * 2.6 = 1333.8.
        ((1300, 500), (1333, 513)),
        ((800, 1000), (800, 1000)),
        ((800, 800), (800, 800)),
        ((100, 100), (800, 800)),
    ],
)
def test_resized_size(size, expected):
    assert Resize().size(size, 800, 1333) == expected


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1500), st.integers(1, 2000))
def test_resized_size_keeps_the_sides_in_order_and_the_cap(width, height, min_size, max_size):
    new_width, new_height = Resize().size((width, height), min_size, max_size)
    assert min(new_width, new_height) >= 1
    assert (new_width >= new_height) == (width >= height) or new_width == new_height
    ratio = max(width, height) / min(width, height)
    # Rounding moves the short side by at most one pixel, and the long side by at most the ratio.
    assert max(new_width, new_height) <= max(max_size + ratio, max_size)


def test_preprocessing_is_the_published_one(shared):
    golden = json.loads((shared / "parity" / "transform.json").read_text())
    ((name, expected),) = golden.items()
    size = tuple(expected["original_size_wh"])
    image = read_image(str(shared / "bccd" / "images" / name), size)
    boxes = BoxList(expected["boxes_xywh"], size, mode="xywh").convert("xyxy")
    batch = build_planner(cfg, np.array([size]), is_train=False).plan(0, [0])
    pixels, target = transform(image, boxes, batch.samples[0])
    (height, width), (images, _, _) = pixels.shape[:2], build_collator(cfg)([(pixels, target, 0)], batch.padded_size)
    images = images.normalize()
    tensor = images.tensors[0, :, :height, :width]
    assert list(tensor.shape) == expected["tensor_shape"] and tensor.dtype == torch.float32
    places = np.random.RandomState(expected["sample_seed"]).randint(0, tensor.numel(), len(expected["sample"]))
    # JPEG decoders may differ by one grey level.
    np.testing.assert_allclose(tensor.flatten()[torch.as_tensor(places)], expected["sample"], atol=1.001)
    np.testing.assert_allclose(tensor.mean(dim=(1, 2)), expected["channel_mean"], atol=0.05)
    np.testing.assert_allclose(tensor.std(dim=(1, 2)), expected["channel_std"], atol=0.05)
    np.testing.assert_allclose(target.bbox, expected["boxes_xyxy_after"], rtol=1e-6)


def test_resize_scales_boxes_by_the_ratio_of_each_axis():
    pixels, target = transform(*picture((40, 30)), plan((80, 60)))
    assert pixels.shape == (60, 80, 3) and target.size == (80, 60)
    torch.testing.assert_close(target.bbox[0], torch.tensor([2.0, 4, 20, 26]))


def test_resize_leaves_an_image_of_the_right_size_alone():
    image, target = picture((45, 30))
    resized, same = transform(image, target, plan((45, 30)))
    np.testing.assert_array_equal(resized.numpy(), np.asarray(image))
    torch.testing.assert_close(same.bbox, target.bbox)


def test_downscaling_is_antialiased():
    stripes = np.zeros((30, 40, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    small, _ = transform(Image.fromarray(stripes), BoxList([], (40, 30)), plan((20, 15)))
    # One-pixel stripes at half size become grey; picking pixels would leave 0 or 200.
    inner = small[:, 1:-1]
    assert inner.min() > 80 and inner.max() < 120


@settings(derandomize=True, deadline=None)
@given(*[st.integers(1, 90)] * 4, st.booleans(), st.integers(0, 2**31))
def test_resizing_is_pil_s_within_one_grey_level(width, height, new_width, new_height, black_and_white, seed):
    pixels = noise((width, height), seed)
    pixels = (pixels > 127) * torch.tensor(255, dtype=torch.uint8) if black_and_white else pixels
    expected = Image.fromarray(pixels.numpy()).resize((new_width, new_height), Image.Resampling.BILINEAR)
    resized = Resize()(pixels, (new_width, new_height))
    assert resized.dtype == torch.uint8
    np.testing.assert_allclose(resized.numpy().astype(int), np.asarray(expected).astype(int), atol=1)


@pytest.mark.parametrize(
    ("size_range", "expected"), [((-1, -1), [640, 800]), ((640, 643), [640, 641, 642, 643]), ((7, 7), [7])]
)
def test_a_size_range_is_inclusive_and_takes_the_place_of_the_list(size_range, expected):
    config = cfg.clone()
    config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MIN_SIZE_RANGE_TRAIN = (640, 800), size_range
    assert list(build_planner(config, np.array([[4, 3]]), is_train=True).min_sizes) == expected


def test_flip_mirrors_pixels_and_boxes():
    image, target = picture((40, 30))
    flipped, boxes = transform(image, target, plan((40, 30), flip=True))
    np.testing.assert_array_equal(flipped.numpy(), np.asarray(image)[:, ::-1])
    # x becomes W - x - 1, and x1 and x2 change places: 40 - 10 - 1 = 29, 40 - 1 - 1 = 38.
    torch.testing.assert_close(boxes.bbox[0], torch.tensor([29.0, 2, 38, 13]))
    assert boxes.get_field("labels").tolist() == [1, 2]


def test_the_flip_comes_after_the_resize():
    straight, mirrored = (transform(*picture(), plan((53, 40), flip)) for flip in (False, True))
    assert torch.equal(mirrored[0], straight[0].flip(1))
    # On 53 pixels x becomes 52 - x.
    torch.testing.assert_close(mirrored[1].bbox[:, 0], 52 - straight[1].bbox[:, 2])


def test_the_arguments_alone_decide():
    results = [transform(*picture(), plan((53, 40), flip=True)) for _ in range(2)]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1].bbox, results[1][1].bbox, rtol=0, atol=0)


def test_inputs_are_left_as_they_were():
    image, target = picture()
    before = np.asarray(image).copy(), target.bbox.clone()
    transform(image, target, plan((40, 30), flip=True))
    np.testing.assert_array_equal(np.asarray(image), before[0])
    torch.testing.assert_close(target.bbox, before[1])
    assert target.size == (40, 30)
