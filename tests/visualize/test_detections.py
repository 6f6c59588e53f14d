"""Pictures of detections: bounded sizes, labels inside the picture and readable."""

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from fcos_core.structures.bounding_box import BoxList
from fcos_core.visualize import detections as module
from fcos_core.visualize.detections import colour_of, draw_detections, drawn_size, text_colour

GREY = (100, 100, 100)


def found(size, boxes, scores=None, labels=None):
    """Return detections; boxes are in shares of the image's sides."""
    result = BoxList(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) * torch.tensor([*size, *size]), size)
    result.add_field("scores", torch.tensor(scores if scores is not None else [0.9] * len(boxes)))
    result.add_field("labels", torch.tensor(labels or [1] * len(boxes), dtype=torch.int64))
    return result


def draw(tmp_path, size, *args, names=("cat",), **options):
    draw_detections(Image.new("RGB", size, GREY), found(size, *args, **options), names, tmp_path / "i.png")
    return Image.open(tmp_path / "i.png")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (640, 480)),
        ((64, 48), (448, 336)),  # 7 is the least whole factor that makes 48 pixels 320
        ((1, 1), (320, 320)),
        ((1000, 50), (2000, 100)),  # 2048 pixels allow twice the size
        ((4000, 3000), (2048, 1536)),
        ((20000, 20000), (2048, 2048)),
        ((12000, 10), (2048, 16)),  # 1.7 pixels high if it kept its shape
        ((10, 12000), (16, 2048)),
    ],
)
def test_size_of_a_picture(size, expected):
    assert drawn_size(size) == expected


@pytest.mark.parametrize("size", [(640, 480), (1, 1), (10, 12000), (12000, 10), (1000, 50), (3000, 2000)])
def test_labels_stay_inside_a_picture_of_bounded_size(tmp_path, size, monkeypatch):
    places = []
    place = module._place
    monkeypatch.setattr(module, "_place", lambda *args: places.append(place(*args)) or places[-1])
    corners = [[0, 0, 0.1, 0.1], [0.9, 0, 1, 0.1], [0, 0.9, 0.1, 1], [0.95, 0.95, 1, 1], [0, 0, 1, 1]]
    # Boxes that leave the image, and one without width and height, as another program may write them.
    boxes = [*corners, [-3, -2, 5, 4], [2, 2, 3, 3], [0.5, 0.5, 0.5, 0.5]]
    picture = draw(tmp_path, size, boxes, names=["a name that is far too long for any label " * 3])
    assert min(picture.size) >= 320 and max(picture.size) <= 2048
    assert len(places) == len(boxes)
    for x1, y1, x2, y2 in places:
        assert 0 <= x1 < x2 < picture.width and 0 <= y1 < y2 < picture.height


def test_labels_do_not_hide_each_other_where_there_is_room(tmp_path, monkeypatch):
    places = []
    place = module._place
    monkeypatch.setattr(module, "_place", lambda *args: places.append(place(*args)) or places[-1])
    draw(tmp_path, (640, 480), [[0.3, 0.3, 0.6, 0.6]] * 3, [0.9, 0.8, 0.7], [1, 2, 3])
    draw(tmp_path, (12000, 10), [[0.3, 0.3, 0.6, 0.6]] * 3, [0.9, 0.8, 0.7], [1, 2, 3])
    for three in (places[:3], places[3:]):
        assert not any(module._overlap(one, other) for one, other in combinations(three, 2))


def test_only_detections_from_the_threshold_on_are_drawn_and_the_best_one_lies_on_top(tmp_path):
    boxes = [[0.25, 0.25, 0.75, 0.75]] * 2
    picture = draw(tmp_path, (640, 480), boxes, [0.5, 0.9], [1, 2], names=("a", "b"))
    assert picture.getpixel((160, 300)) == ImageColor.getrgb(colour_of(2))
    blank = draw(tmp_path, (640, 480), boxes, [0.29, 0.1])
    assert np.unique(np.asarray(blank).reshape(-1, 3), axis=0).tolist() == [list(GREY)]


def test_no_detections_leave_the_image_as_it_is(tmp_path):
    assert np.array_equal(np.asarray(draw(tmp_path, (640, 480), [])), np.full((480, 640, 3), 100))


def test_a_small_image_is_enlarged_pixel_by_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    draw_detections(Image.fromarray(pixels), found((64, 40), []), ["cat"], tmp_path / "i.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "i.png")), pixels.repeat(8, 0).repeat(8, 1))


def test_continuous_boxes_are_drawn_where_inclusive_ones_are(tmp_path):
    boxes = found((400, 320), [[0.1, 0.1, 0.5, 0.5], [0.2, 0.6, 0.9, 1]])
    drawn = []
    for name, detections in (("inclusive", boxes), ("continuous", boxes.with_pixels(continuous=True))):
        draw_detections(Image.new("RGB", (400, 320), GREY), detections, ["cat"], tmp_path / f"{name}.png")
        drawn.append(np.asarray(Image.open(tmp_path / f"{name}.png")))
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("continuous", [False, True])
def test_boxes_without_width_or_height_are_drawn(tmp_path, continuous):
    empty = BoxList(
        [[20, 20, 20, 60], [30, 30, 70, 30], [0, 0, 0, 0], [400, 320, 400, 320]], (400, 320), "xyxy", continuous
    )
    empty.add_field("scores", torch.full((4,), 0.9))
    empty.add_field("labels", torch.ones(4, dtype=torch.int64))
    draw_detections(Image.new("RGB", (400, 320), GREY), empty, ["cat"], tmp_path / "i.png")
    assert Image.open(tmp_path / "i.png").size == (400, 320)


def test_labels_without_names_and_grey_images_are_drawn(tmp_path):
    draw_detections(Image.new("L", (400, 400)), found((400, 400), [[0, 0, 1, 1]], labels=[7]), [], tmp_path / "i.jpg")
    assert Image.open(tmp_path / "i.jpg").mode == "RGB"


def test_the_ends_of_a_long_name_are_kept(tmp_path, monkeypatch):
    texts = []
    fitting = module._fitting
    monkeypatch.setattr(module, "_fitting", lambda *args: texts.append(fitting(*args)) or texts[-1])
    draw(tmp_path, (320, 320), [[0, 0, 1, 1]], names=["one" + 60 * "-" + "end"])
    assert texts[0].startswith(" one-") and texts[0].endswith("-end 0.90 ") and "…" in texts[0]


def test_colours_are_distinct_and_text_on_them_is_readable():
    colours = [ImageColor.getrgb(colour_of(label)) for label in range(1, 21)]
    # Of 442, the distance of black and white in RGB. Eight colours chosen by hand, used before, had 95.
    for count, least in ((8, 95), (20, 80)):
        assert min(np.linalg.norm(np.subtract(a, b)) for a, b in combinations(colours[:count], 2)) > least
    for label in range(1, 100):
        assert contrast(colour_of(label), text_colour(colour_of(label))) >= 3


def contrast(one, other):
    """Return the contrast ratio of two colours; WCAG 2 asks for 3 for large text."""

    def luminance(colour):
        parts = np.array(ImageColor.getrgb(colour)) / 255
        return np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
