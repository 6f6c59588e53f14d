"""Sizes, boxes and pixels after the transforms, against the published preprocessing."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcos_core.config import cfg
from fcos_core.data.build import build_collator, build_transform
from fcos_core.data.image_file import read_image
from fcos_core.data.transforms import HorizontalFlip, Resize, Transform, resize_pixels, resized_size
from fcos_core.structures.bounding_box import BoxList


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(size, seed=0) -> torch.Tensor:
    return torch.from_numpy(rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def sample(size=(40, 30)) -> tuple[torch.Tensor, BoxList]:
    target = BoxList([[1.0, 2, 10, 13], [0, 0, size[0] - 1, size[1] - 1]], size)
    target.add_field("labels", torch.tensor([1, 2]))
    return noise(size), target


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # 800 * 640 / 480 = 1066.67, truncated, as in shared/parity/transform.json.
        ((640, 480), (1066, 800)),
        ((480, 640), (800, 1066)),
        # 3 * 800 > 1333: the short side is round(1333 / 3) = 444, the long one 444 * 3.
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
    assert resized_size(size, 800, 1333) == expected


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1500), st.integers(1, 2000))
def test_resized_size_keeps_the_sides_in_order_and_the_cap(width, height, min_size, max_size):
    new_width, new_height = resized_size((width, height), min_size, max_size)
    assert min(new_width, new_height) >= 1
    assert (new_width >= new_height) == (width >= height) or new_width == new_height
    ratio = max(width, height) / min(width, height)
    # Rounding the short side by at most half a pixel (a whole one up from 0) moves the long one by the ratio.
    assert max(new_width, new_height) <= max(max_size + ratio, max_size)


def test_preprocessing_is_the_published_one(shared):
    golden = json.loads((shared / "parity" / "transform.json").read_text())
    ((name, expected),) = golden.items()
    size = tuple(expected["original_size_wh"])
    image = read_image(str(shared / "bccd" / "images" / name), size)
    boxes = BoxList(expected["boxes_xywh"], size, mode="xywh").convert("xyxy")
    pixels, target = build_transform(cfg, is_train=False)(image, boxes, rng())
    (height, width), images = pixels.shape[:2], build_collator(cfg)([(pixels, target, 0)])[0].normalize()
    tensor = images.tensors[0, :, :height, :width]
    assert list(tensor.shape) == expected["tensor_shape"] and tensor.dtype == torch.float32
    places = np.random.RandomState(expected["sample_seed"]).randint(0, tensor.numel(), len(expected["sample"]))
    # Within one grey level: JPEG decoders may differ by that.
    np.testing.assert_allclose(tensor.flatten()[torch.as_tensor(places)], expected["sample"], atol=1.001)
    np.testing.assert_allclose(tensor.mean(dim=(1, 2)), expected["channel_mean"], atol=0.05)
    np.testing.assert_allclose(tensor.std(dim=(1, 2)), expected["channel_std"], atol=0.05)
    np.testing.assert_allclose(target.bbox, expected["boxes_xyxy_after"], rtol=1e-6)


def test_resize_scales_boxes_by_the_ratio_of_each_axis():
    pixels, target = Resize((60,), 1000)(*sample((40, 30)), rng())
    assert pixels.shape == (60, 80, 3) and target.size == (80, 60)
    torch.testing.assert_close(target.bbox[0], torch.tensor([2.0, 4, 20, 26]))


def test_resize_leaves_an_image_of_the_right_size_alone():
    pixels, target = sample((45, 30))
    resized, same = Resize((30,), 1000)(pixels, target, rng())
    assert torch.equal(resized, pixels)
    torch.testing.assert_close(same.bbox, target.bbox)


def test_downscaling_is_antialiased():
    stripes = torch.zeros(30, 40, 3, dtype=torch.uint8)
    stripes[:, ::2] = 200
    target = BoxList([], (40, 30))
    small, _ = Resize((15,), 1000)(stripes, target, rng())
    # One-pixel stripes at half size are grey; picking pixels would leave 0 or 200.
    inner = small[:, 1:-1]
    assert inner.min() > 80 and inner.max() < 120


@settings(derandomize=True, deadline=None)
@given(*[st.integers(1, 90)] * 4, st.booleans(), st.integers(0, 2**31))
def test_resizing_is_pil_s_within_one_grey_level(width, height, new_width, new_height, black_and_white, seed):
    pixels = noise((width, height), seed)
    pixels = (pixels > 127) * torch.tensor(255, dtype=torch.uint8) if black_and_white else pixels
    expected = Image.fromarray(pixels.numpy()).resize((new_width, new_height), Image.Resampling.BILINEAR)
    resized = resize_pixels(pixels, (new_width, new_height))
    assert resized.dtype == torch.uint8
    np.testing.assert_allclose(resized.numpy().astype(int), np.asarray(expected).astype(int), atol=1)


def test_every_listed_size_is_drawn_and_no_other():
    for sizes in ((20, 50), range(20, 24)):
        generator, resize = rng(), Resize(sizes, 1000)
        drawn = {resize(*sample(), generator)[0].shape[0] for _ in range(60)}
        assert drawn == set(sizes)


@pytest.mark.parametrize(
    ("size_range", "expected"), [((-1, -1), [640, 800]), ((640, 643), [640, 641, 642, 643]), ((7, 7), [7])]
)
def test_a_size_range_is_inclusive_and_takes_the_place_of_the_list(size_range, expected):
    config = cfg.clone()
    config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MIN_SIZE_RANGE_TRAIN = (640, 800), size_range
    assert list(build_transform(config, is_train=True).resize.min_sizes) == expected


def test_flip_mirrors_pixels_and_boxes():
    image, target = sample((40, 30))
    flipped, boxes = HorizontalFlip(1.0)(image, target, rng())
    np.testing.assert_array_equal(flipped.numpy(), image.numpy()[:, ::-1])
    # x -> W - x - 1, and the ends change places: 40 - 10 - 1 = 29, 40 - 1 - 1 = 38.
    torch.testing.assert_close(boxes.bbox[0], torch.tensor([29.0, 2, 38, 13]))
    assert boxes.get_field("labels").tolist() == [1, 2]


@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (1.0, 400, 400), (0.25, 70, 130)])
def test_flip_probability(prob, low, high):
    # 400 draws at 0.25: 100 expected, deviation 8.7; the range is 3.4 deviations wide on each side.
    image, target = sample((4, 3))
    generator, flip = rng(), HorizontalFlip(prob)
    assert low <= sum(flip(image, target, generator)[0] is not image for _ in range(400)) <= high


def picture() -> tuple[Image.Image, BoxList]:
    pixels, target = sample()
    return Image.fromarray(pixels.numpy()), target


def test_the_generator_alone_decides():
    transform = Transform(range(20, 60), 1000, 0.5)
    results = [transform(*picture(), rng(seed)) for seed in (3, 3, *range(20))]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1].bbox, results[1][1].bbox, rtol=0, atol=0)
    assert len({pixels.shape for pixels, _ in results}) > 5


def test_inputs_are_left_as_they_were():
    image, target = picture()
    before = np.asarray(image).copy(), target.bbox.clone()
    Transform((30,), 1000, 1.0)(image, target, rng())
    np.testing.assert_array_equal(np.asarray(image), before[0])
    torch.testing.assert_close(target.bbox, before[1])
    assert target.size == (40, 30)
