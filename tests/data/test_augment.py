"""Augmentations: boxes stay on what they marked, chance is a function of the seed, and loaders agree."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from coco_trees import annotation, tree_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_data_loader import assert_same, split, unpadded

from fcos_core.data import make_data_loader
from fcos_core.data.augment import distort_colors
from fcos_core.data.augment_plan import Augmenter, find_rare_objects
from fcos_core.data.build import build_augmenter
from fcos_core.data.coco import COCODataset
from fcos_core.data.concat import ConcatCOCODataset
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.data.plan import Augmentation, Colors, Copies, SamplePlan, Tile, scaled
from fcos_core.data.resize import Resize
from fcos_core.data.samplers import BatchPlanner
from fcos_core.data.transforms import transform
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList

KINDS = ("VERTICAL_FLIP", "ZOOM_OUT", "IOU_CROP", "PHOTOMETRIC", "MOSAIC", "MIXUP", "COPY_RARE")
EVERYTHING = [word for kind in KINDS for word in (f"INPUT.AUG.{kind}_PROB", 0.5)]
EVERYTHING += ["INPUT.AUG.SCALE_RANGE", (0.5, 1.5)]
BLACK = (0.0, 0.0, 0.0)


# ------------------------------------------------------------------------------------------------ boxes and pixels
def marked(label, size, box, continuous):
    """A black image with one rectangle, whose color in RGB is the label in binary; `box` has inclusive pixels."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    left, top, right, bottom = box
    pixels[top : bottom + 1, left : right + 1] = color(label)
    target = BoxList([list(map(float, box))], size).with_pixels(continuous)
    target.add_field("labels", torch.tensor([label]))
    return Image.fromarray(pixels), target


def color(label):
    return [255 * (label >> bit & 1) for bit in range(3)]


def extent(pixels, label):
    """The inclusive box of the pixels that are nearer to the label's color than to any other; None without any."""
    rows, columns = np.nonzero((np.abs(pixels.numpy().astype(float) - color(label)) < 128).all(axis=2))
    return (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else None


def assert_marks(pixels, target, label, growth, area=None):
    """The box of `label` encloses its pixels; only where little of `area` pixels is left, it may lack.

    `BoxList.resize` multiplies inclusive coordinates, so x2 is growth - 1 pixels short.
    """
    (rows,) = torch.nonzero(target.get_field("labels") == label, as_tuple=True)
    found = extent(pixels, label)
    assert len(rows) <= 1
    if len(rows):
        box = target[rows].with_pixels(continuous=False).bbox[0]
        assert found is not None
        tolerance = 1.01 + (0 if target.continuous else abs(growth - 1))
        assert np.abs(box.numpy() - found).max() <= tolerance, (box, found)
    elif found is not None and area is not None:
        width, height = found[2] - found[0] + 1, found[3] - found[1] + 1
        # Rounding moves each side by a pixel or two.
        assert min(width, height) <= 3 or (width - 2) * (height - 2) <= 0.2 * area + 1


def assert_inside(pixels, target):
    assert target.size == (pixels.shape[1], pixels.shape[0])
    boxes, last = target.bbox, 0 if target.continuous else 1
    assert (boxes >= 0).all() and (boxes[:, 0::2] <= target.size[0] - last).all()
    assert (boxes[:, 1::2] <= target.size[1] - last).all()
    assert (target.convert("xywh").bbox[:, 2:] >= 2).all()


@st.composite
def images(draw, label, continuous):
    width, height = draw(st.integers(20, 90)), draw(st.integers(20, 90))
    left, top = draw(st.integers(0, width - 9)), draw(st.integers(0, height - 9))
    right, bottom = draw(st.integers(left + 7, width - 1)), draw(st.integers(top + 7, height - 1))
    return marked(label, (width, height), (left, top, right, bottom), continuous)


SHARES = st.floats(0, 1, width=32)


@st.composite
def tiles(draw, index, size):
    factor = draw(st.floats(0.3, 2))
    return Tile(index, scaled(size, factor), factor, (draw(SHARES), draw(SHARES)))


def growth_of(plan, tile, image):
    return max(new / old for new, old in zip(tile.size, image.size, strict=True))


@settings(max_examples=80, derandomize=True, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from(["fcos", "detectron2", "mmdet", "torchvision"]), st.booleans())
def test_boxes_enclose_what_they_marked(data, continuous, rule, mosaic):
    sources = {i: data.draw(images(i + 1, continuous)) for i in range(4 if mosaic else 1)}
    size = data.draw(st.tuples(st.integers(24, 96), st.integers(24, 96)))
    # Each image is about as large as the canvas, with its own ratio of the sides.
    fits = {i: scaled(image.size, min(np.divide(size, image.size))) for i, (image, _) in sources.items()}
    laid = tuple(data.draw(tiles(i, fits[i])) for i in sources)
    center = data.draw(st.tuples(st.floats(0.25, 0.75), st.floats(0.25, 0.75)))
    flips = data.draw(st.tuples(st.booleans(), st.booleans()))
    augmentation = Augmentation(laid, BLACK, center, vertical_flip=flips[1])
    plan = SamplePlan(0, size, flips[0], min(size), Resize(rule), augmentation)
    pixels, target = transform(*sources[0], plan, sources)
    assert pixels.shape == (size[1], size[0], 3) and pixels.dtype == Resize(rule).dtype
    assert target.continuous == continuous
    assert_inside(pixels, target)
    for tile, (image, original) in zip(laid, sources.values(), strict=True):
        area = float(original.area()) * np.prod(np.divide(tile.size, image.size))
        assert_marks(pixels, target, tile.index + 1, growth_of(plan, tile, image), area)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.data(), st.booleans(), st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.5]))
def test_an_iou_crop_keeps_a_box_and_the_ratio_of_the_sides(data, continuous, seed, least_iou):
    image, original = data.draw(images(1, continuous))
    augmenter = Augmenter(1, BLACK, iou_crop_prob=1.0)
    augmentation = augmenter.draw((seed, 0), 1, 0, 32, lambda index, side: image.size)
    plan = SamplePlan(0, image.size, False, 32, augmentation=replace(augmentation, least_iou=least_iou))
    pixels, target = transform(image, original, plan)
    assert_inside(pixels, target)
    # 0.3 is the least side of a window, and a window is scaled evenly.
    assert_marks(pixels, target, 1, 1 / 0.3)
    # The center of the only box is inside: a quarter of it is left, and rounding takes half a pixel of each side.
    if continuous and original.convert("xywh").bbox[0, 2:].min() >= 10:
        assert len(target) == 1
    if not len(target):
        return
    # A window fills half of the canvas or more, and the box `least_iou` of the window, up to rounding.
    whole = torch.equal(target.bbox, original.bbox)
    assert whole or float(target.area()) >= 0.6 * 0.5 * least_iou * np.prod(image.size)


def test_an_image_in_which_no_window_has_the_iou_is_left_alone():
    image, target = marked(1, (60, 40), (10, 10, 20, 20), False)
    windows = ((0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 1.0, 0.9))
    tile = Tile(0, (60, 40), 1.0, (0.3, 0.7))
    plan = SamplePlan(0, (60, 40), False, 40, augmentation=Augmentation((tile,), BLACK, windows=windows, least_iou=0.1))
    pixels, boxes = transform(image, target, plan)
    assert torch.equal(pixels, torch.from_numpy(np.array(image))) and torch.equal(boxes.bbox, target.bbox)
    # The second window, 60 x 36, holds the box of 11 x 11: IoU 121 / 2160 = 0.056.
    looser = replace(plan, augmentation=replace(plan.augmentation, least_iou=0.05))
    assert not torch.equal(transform(image, target, looser)[0], pixels)


def test_an_image_without_boxes_is_not_cropped():
    image, target = marked(1, (60, 40), (10, 10, 20, 20), False)
    tile = Tile(0, (60, 40), 1.0, (0.5, 0.5))
    plan = SamplePlan(0, (60, 40), False, 40, augmentation=Augmentation((tile,), BLACK, windows=((0, 0, 0.5, 0.5),)))
    pixels, boxes = transform(image, target[torch.zeros(1, dtype=torch.bool)], plan)
    assert len(boxes) == 0 and torch.equal(pixels, torch.from_numpy(np.array(image)))


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from(["fcos", "torchvision"]), st.floats(0.3, 0.7))
def test_mixup_shows_the_objects_of_both(data, continuous, rule, share):
    sources = {i: data.draw(images(i + 1, continuous)) for i in range(2)}  # red and green: channels of their own
    size = sources[0][0].size
    own, partner = (data.draw(tiles(i, sources[i][0].size)) for i in range(2))
    augmentation = Augmentation((own,), BLACK, mixup=partner, mixup_share=share)
    plan = SamplePlan(0, size, False, min(size), Resize(rule), augmentation)
    pixels, target = transform(*sources[0], plan, sources)
    assert pixels.dtype == Resize(rule).dtype
    assert_inside(pixels, target)
    for channel, (tile, weight) in enumerate([(own, share), (partner, 1 - share)]):
        alone = torch.zeros(pixels.shape)
        alone[..., channel] = pixels[..., channel] / weight
        assert_marks(alone, target, channel + 1, growth_of(plan, tile, sources[channel][0]))


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.data(), st.booleans())
def test_copied_objects_are_marked_and_those_under_them_are_not(data, continuous):
    sources = {i: data.draw(images(i + 1, continuous)) for i in range(2)}
    size, donor = sources[0][0].size, sources[1][0].size
    factor = data.draw(st.floats(0.3, 1.5))
    places = tuple(data.draw(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=4)))
    copies = Copies(1, scaled(donor, factor), (0,), (places,))
    augmentation = Augmentation((Tile(0, size, 1.0, (0, 0)),), BLACK, copies=copies)
    pixels, target = transform(*sources[0], SamplePlan(0, size, False, 32, augmentation=augmentation), sources)
    assert_inside(pixels, target)
    assert_marks(pixels, target, 2, factor)
    before = float(sources[0][1].area())
    seen = ((pixels.numpy().astype(float) - color(1))[..., :1] >= -128).all(axis=2)
    visible = (seen & (pixels.numpy()[..., 1] < 128)).sum()
    if 1 in target.get_field("labels"):
        assert torch.equal(target[0].bbox, sources[0][1].bbox) and visible >= 0.5 * before - 1
    else:
        assert visible <= 0.5 * before + 1


def test_objects_go_where_they_cover_least():
    # Both have 8 x 8 pixels; of the places the second alone is free.
    sources = {0: marked(1, (40, 20), (2, 2, 9, 9), False), 1: marked(2, (40, 20), (0, 0, 7, 7), False)}
    copies = Copies(1, (40, 20), (0,), (((0.1, 0.2), (1.0, 1.0), (0.0, 0.0)),))
    augmentation = Augmentation((Tile(0, (40, 20), 1.0, (0, 0)),), BLACK, copies=copies)
    _, target = transform(*sources[0], SamplePlan(0, (40, 20), False, 20, augmentation=augmentation), sources)
    assert target.bbox.tolist() == [[2, 2, 9, 9], [32, 12, 39, 19]]
    assert target.get_field("labels").tolist() == [1, 2]
    # Without the image to copy from, nothing is copied.
    alone = {0: sources[0]}
    _, target = transform(*sources[0], SamplePlan(0, (40, 20), False, 20, augmentation=augmentation), alone)
    assert target.get_field("labels").tolist() == [1]


# ------------------------------------------------------------------------------------------------ colors
@pytest.mark.parametrize("kind", ["brightness", "contrast", "hue"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_colors_are_those_of_torchvision(kind, dtype):
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(40, 200, (30, 40, 3), dtype=np.uint8))
    factor = {"brightness": 1.1, "contrast": 1.2, "hue": 0.05}[kind]
    planes = pixels.permute(2, 0, 1) / 255
    expected = 255 * getattr(reference, f"adjust_{kind}")(planes, factor).permute(1, 2, 0)
    found = distort_colors(pixels.to(dtype), Colors(**{kind: factor}))
    assert found.dtype == dtype
    # OpenCV's hue has steps of two degrees in bytes: a sixtieth of the way from one color to the next.
    tolerance = 8 if kind == "hue" and dtype == torch.uint8 else 1
    assert (found.float() - expected).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_without_saturation_an_image_is_grey(dtype):
    pixels = torch.tensor([[[200, 100, 50], [10, 20, 30]]], dtype=dtype)
    found = distort_colors(pixels, Colors(saturation=0.0))
    assert found.tolist() == [[[200] * 3, [30] * 3]]  # the value of HSV, the largest channel
    assert torch.equal(distort_colors(pixels, Colors()), pixels)


# ------------------------------------------------------------------------------------------------ plans
def planner(**options):
    augmenter = Augmenter(6, (1.0, 2.0, 3.0), **options)
    return BatchPlanner(np.array([(64, 48)] * 6), (32, 40), 64, 0.5, 7, 32, augmenter=augmenter)


ALL = dict.fromkeys(
    ("vertical_flip_prob", "zoom_out_prob", "iou_crop_prob", "photometric_prob", "mosaic_prob", "mixup_prob"), 0.5
)


def augmentations(count=200, first=1, **options):
    plans = planner(**options)
    return [plans.plan(iteration, [iteration % 6]).samples[0] for iteration in range(first, first + count)]


def test_plans_are_a_function_of_seed_iteration_and_slot():
    first, again = augmentations(30, **ALL, scale_range=(0.5, 2)), augmentations(30, **ALL, scale_range=(0.5, 2))
    assert first == again and len(set(first)) > 20
    # A plan of every kind travels to a worker in less than 4 kB.
    assert max(len(pickle.dumps(plan)) for plan in first) < 4096


def test_other_draws_stay_when_an_augmentation_is_switched_on():
    off = augmentations()
    assert all(sample.augmentation is None for sample in off)
    everything = augmentations(**ALL, scale_range=(0.5, 2))
    assert [replace(sample, augmentation=None) for sample in everything] == off
    for one, attribute in (("photometric_prob", "colors"), ("iou_crop_prob", "windows"), ("mixup_prob", "mixup_share")):
        alone = augmentations(**{one: 0.5})
        for sample, every in zip(alone, everything, strict=True):
            mosaic = len(every.augmentation.tiles) == 4
            if sample.augmentation and not (mosaic and attribute == "windows"):
                assert getattr(sample.augmentation, attribute) == getattr(every.augmentation, attribute)


def test_probabilities_and_ranges():
    drawn = [sample.augmentation for sample in augmentations(400, **ALL, scale_range=(0.5, 2))]
    mosaics = [one for one in drawn if len(one.tiles) == 4]
    # 0.5 of 400, and half of those without a mosaic are cropped: 4 standard deviations are 40 and 35.
    assert abs(len(mosaics) - 200) < 40 and abs(sum(bool(one.windows) for one in drawn) - 100) < 35
    assert all(not one.windows for one in mosaics)
    assert all(0.5 <= tile.factor <= 2 for one in mosaics for tile in one.tiles)
    factors = [one.tiles[0].factor for one in drawn if len(one.tiles) == 1]
    assert min(factors) < 0.4 and min(factors) >= 0.5 / 4 and 1.8 < max(factors) <= 2
    assert {tile.index for one in mosaics for tile in one.tiles} == set(range(6))
    for left, top, right, bottom in itertools.chain.from_iterable(one.windows for one in drawn):
        width, height = right - left, bottom - top
        assert left >= 0 <= top and right <= 1 >= bottom
        assert min(width, height) >= 0.299 and 0.499 <= width / height <= 2.001
    assert sum(one.vertical_flip for one in drawn) > 150 and sum(one.colors is not None for one in drawn) > 150


def test_the_last_iterations_have_no_mosaic_and_no_mixup():
    samples = augmentations(10, **{**ALL, "mosaic_prob": 1.0, "mixup_prob": 1.0}, mosaic_until=7)
    kinds = [
        (len(s.augmentation.tiles), s.augmentation.mixup is not None) if s.augmentation else (1, False) for s in samples
    ]
    assert kinds == [(4, True)] * 7 + [(1, False)] * 3


@pytest.mark.parametrize(("share", "last"), [(0.0, 10), (0.3, 7), (0.9, 1), (1.0, 0)])
def test_the_share_of_iterations_without_mosaic(make_cfg, share, last):
    cfg = make_cfg({"a": tree_of([(48, 36)])}, "SOLVER.MAX_ITER", 10, "INPUT.AUG.MOSAIC_PROB", 0.5)
    cfg.INPUT.AUG.MOSAIC_OFF_SHARE = share
    augmenter = build_augmenter(cfg, [0])
    assert [iteration <= augmenter.mosaic_until for iteration in range(1, 11)] == [True] * last + [False] * (10 - last)
    # PIXEL_MEAN is BGR by default; the canvas is RGB.
    assert augmenter.fill == (122.7717, 115.9465, 102.9801)


# ------------------------------------------------------------------------------------------------ rare classes
def zoo():
    """Four images; 1 box of class 1 (in image 3), 5 of class 2, 2 of class 3 (in images 1 and 3): the mean is 8 / 3."""
    images = [{"id": i, "width": 48, "height": 36, "file_name": f"{i}.png"} for i in range(1, 5)]
    rows = [(1, 2), (1, 3), (2, 2), (2, 2), (3, 2), (3, 1), (3, 3), (4, 2)]
    boxes = [annotation(i, image, [4, 5, 9 + i, 12], label) for i, (image, label) in enumerate(rows, start=1)]
    names = [{"id": i, "name": name} for i, name in enumerate(["ape", "bee", "cat"], start=1)]
    return {"images": images, "annotations": boxes, "categories": names}


def test_rare_classes_have_fewer_boxes_than_the_mean(make_files):
    dataset = COCODataset(*make_files(zoo()), is_train=True)
    rare = find_rare_objects(dataset)
    assert [images.tolist() for images in rare.images] == [[2], [0, 2]]
    assert rare.boxes == {0: (1,), 2: (1, 2)}
    both = find_rare_objects(ConcatCOCODataset([dataset, dataset]))
    assert [images.tolist() for images in both.images] == [[2, 6], [0, 2, 4, 6]]
    drawn = [sample.augmentation.copies for sample in augmentations(60, copy_rare_prob=1.0, rare=rare)]
    # Class 1, then class 3, each in one of two draws; image 0 shows class 3 alone.
    assert abs(sum(copies.index == 2 for copies in drawn) - 45) < 14
    assert all(sorted(copies.boxes) == list(rare.boxes[copies.index]) for copies in drawn)


def test_without_rarer_classes_nothing_is_copied(make_files):
    rare = find_rare_objects(COCODataset(*make_files(tree_of([(48, 36)] * 3)), is_train=True))
    assert rare.images == () and rare.boxes == {}
    assert all(sample.augmentation is None for sample in augmentations(20, copy_rare_prob=1.0, rare=rare))


def test_objects_of_an_own_dataset_cannot_be_copied():
    class Pictures:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise AssertionError("no image is read for the error")

        def get_img_info(self, index):
            return {"height": 30, "width": 40}

    with pytest.raises(InputError, match=r"INPUT\.AUG\.COPY_RARE_PROB .* Pictures .*: set it to 0"):
        find_rare_objects(OwnDataset(Pictures()))


# ------------------------------------------------------------------------------------------------ loaders
SIZES = [(48, 36), (36, 48), (50, 30), (40, 40), (30, 50), (64, 36)]


@pytest.fixture
def make_loader_cfg(make_cfg):
    """Two datasets with a rare class, and everything on."""

    def make(*words):
        trees = {"a": zoo(), "b": {**tree_of(SIZES), "categories": zoo()["categories"]}}
        return make_cfg(trees, "MODEL.FCOS.NUM_CLASSES", 4, "SOLVER.MAX_ITER", 12, *EVERYTHING, *words)

    return make


def test_workers_ranks_and_resuming_give_the_same_batches(make_loader_cfg, monkeypatch):
    cfg = make_loader_cfg()
    expected = unpadded(make_data_loader(cfg))
    assert_same(unpadded(make_data_loader(cfg, start_iter=5)), expected[5:])
    parts = [unpadded(split(cfg, monkeypatch, rank, 2)) for rank in range(2)]
    assert_same([list(itertools.chain.from_iterable(shares)) for shares in zip(*parts, strict=True)], expected)
    monkeypatch.undo()
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(unpadded(make_data_loader(cfg)), expected)


def test_pixels_of_floats_are_augmented_too(make_loader_cfg):
    for images, targets, _ in make_data_loader(make_loader_cfg("INPUT.RESIZE", "torchvision")):
        assert images.pixels.dtype == torch.float32 and 0 <= images.pixels.min() <= images.pixels.max() <= 255
        for (height, width), target in zip(images.image_sizes, targets, strict=True):
            assert target.size == (width, height) and target.get_field("labels").shape == (len(target),)


def damage(cfg, index):
    path = make_data_loader(cfg).dataset.image_path(index)
    with open(path, "wb") as file:
        file.write(b"not an image")
    return path


@pytest.mark.parametrize("kind", ["MOSAIC", "MIXUP", "COPY_RARE"])
def test_an_unreadable_partner_is_replaced_and_named(make_loader_cfg, kind, caplog):
    words = [word for other in KINDS for word in (f"INPUT.AUG.{other}_PROB", float(other == kind))]
    cfg = make_loader_cfg(*words, "DATALOADER.SKIP_UNREADABLE", True)
    whole = unpadded(make_data_loader(cfg))
    path = damage(cfg, 2)
    found = unpadded(make_data_loader(cfg))
    assert f"Skipped the unreadable image '{path}'" in caplog.text
    assert all(index != 2 for batch in found for _, _, _, index in batch)
    # Sizes were known before pixels were read, and what does not take the image is as before.
    assert [len(batch) for batch in found] == [len(batch) for batch in whole]
    alike = [
        torch.equal(a[0], b[0]) for one, two in zip(found, whole, strict=True) for a, b in zip(one, two, strict=True)
    ]
    assert any(alike) and not all(alike)
    cfg.DATALOADER.SKIP_UNREADABLE = False
    with pytest.raises(InputError, match="cannot be read"):
        list(make_data_loader(cfg))


def test_everything_off_plans_nothing(make_cfg):
    cfg = make_cfg({"a": tree_of(SIZES)})
    assert build_augmenter(cfg, [0]) is None
    cfg.INPUT.AUG.MOSAIC_OFF_SHARE = 0.5
    assert build_augmenter(cfg, [0]) is None
