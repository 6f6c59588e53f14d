"""Tiles and tracks: objects at the borders of tiles come out once, and an object keeps its number."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from fcos_core.engine.predict_tiles import Tracker, on_tiles
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList

NAMES = ("red", "blue")
COLOURS = ((255, 0, 0), (0, 0, 255))


def find_squares(images):
    """Detect, as a detector would, what is red or blue: one box for each connected square, surer the more it shows."""
    results = []
    for image in images:
        pixels = np.asarray(image)
        boxes, labels = [], []
        for label, colour in enumerate(COLOURS, 1):
            mask = (pixels == colour).all(-1)
            while mask.any():
                y, x = np.argwhere(mask)[0]
                height = (mask[y:, x].tolist() + [False]).index(False)
                width = (mask[y, x:].tolist() + [False]).index(False)
                mask[y : y + height, x : x + width] = False
                boxes.append([x, y, x + width - 1, y + height - 1])  # inclusive pixels, as HRNet-FCOS has them
                labels.append(label)
        found = BoxList(boxes, image.size)
        found.add_field("scores", (found.area() / 1000).clamp(max=0.9).reshape(-1))
        found.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        found.add_field("names", [NAMES[label - 1] for label in labels])
        results.append(found)
    return results


def draw_squares(size, squares):
    image = Image.new("RGB", size, "white")
    for x, y, side, label in squares:
        ImageDraw.Draw(image).rectangle((x, y, x + side - 1, y + side - 1), fill=COLOURS[label - 1])
    return image


# Tiles of 64 that share 24 begin at 0, 40, 80, 120, 136: these squares lie across borders, in corners, and inside.
SQUARES = [(30, 10, 20, 1), (58, 58, 12, 2), (95, 50, 18, 1), (140, 130, 20, 2), (5, 100, 20, 1), (180, 180, 20, 1)]


@pytest.mark.parametrize("size", [(200, 200), (200, 230), (64, 64), (50, 40)])
def test_objects_at_the_borders_of_tiles_come_out_once(size):
    squares = [square for square in SQUARES if square[0] + square[2] <= size[0] and square[1] + square[2] <= size[1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (boxes,) = on_tiles(find_squares, side=64, overlap=24)([draw_squares(size, squares)])
    assert boxes.size == size and boxes.continuous
    rows = torch.cat([boxes.bbox.round().long(), boxes.get_field("labels")[:, None]], dim=1).tolist()
    found = set(map(tuple, rows))
    assert found == {(x, y, x + side, y + side, label) for x, y, side, label in squares}
    assert len(boxes) == len(found), "none comes out twice"
    scores = boxes.get_field("scores").tolist()
    assert scores == sorted(scores, reverse=True)
    assert boxes.get_field("names") == [NAMES[label - 1] for label in boxes.get_field("labels").tolist()]


def test_objects_of_two_classes_at_one_place_both_stay():
    image = draw_squares((100, 100), [(10, 10, 20, 1)])
    (boxes,) = on_tiles(lambda images: [two_classes(boxes) for boxes in find_squares(images)], 64, 24)([image])
    assert sorted(boxes.get_field("names")) == ["blue", "red"]


def two_classes(boxes):
    if not len(boxes):
        return boxes
    boxes = boxes[[0, 0]]
    boxes.extra_fields.update(labels=torch.tensor([1, 2]), names=list(NAMES))
    return boxes


def test_an_image_without_objects_has_boxes_with_all_fields():
    empty, one = on_tiles(find_squares, 64, 24)([Image.new("RGB", (150, 90), "white"), draw_squares((99, 99), SQUARES)])
    assert len(empty) == 0 and empty.get_field("names") == [] and len(one) > 0
    assert empty.get_field("scores").dtype == torch.float32 and empty.get_field("labels").dtype == torch.int64


def moving(frame, score=0.8, label=1):
    """Return two objects that move towards each other on two rows, 4 pixels a frame."""
    left = [10 + 4 * frame, 10, 40 + 4 * frame, 40]
    right = [200 - 4 * frame, 80, 230 - 4 * frame, 110]
    boxes = BoxList([left, right], (300, 200))
    boxes.add_field("scores", torch.tensor([score, 0.9]))
    boxes.add_field("labels", torch.tensor([label, 2]))
    boxes.add_field("names", [NAMES[label - 1], "blue"])
    return boxes


def test_an_object_keeps_its_number():
    tracker = Tracker(torch.tensor([0.3, 0.3]), fps=25)
    tracks = [tracker(moving(frame)).get_field("track_ids").tolist() for frame in range(20)]
    assert tracks[0] == [-1, -1], "one detection is no track"
    assert all(track == tracks[1] for track in tracks[1:]) and len({*tracks[1], -1}) == 3


def test_low_scores_continue_a_track_but_begin_none():
    tracker = Tracker(torch.tensor([0.6, 0.3]), fps=25)
    # Below half its threshold nothing would come from the detector; 0.4 is between.
    assert [len(tracker(moving(frame, score=0.4))) for frame in range(5)] == [1] * 5
    tracker = Tracker(torch.tensor([0.6, 0.3]), fps=25)
    scores = [0.8, 0.8, 0.8, 0.4, 0.4, 0.8]
    found = [tracker(moving(frame, score)) for frame, score in enumerate(scores)]
    assert [len(boxes) for boxes in found] == [2] * 6
    assert len({tuple(boxes.get_field("track_ids").tolist()) for boxes in found[1:]}) == 1
    assert found[3].get_field("scores").tolist() == pytest.approx([0.4, 0.9]), "scores are the detector's"
    assert found[3].get_field("names") == ["red", "blue"]


def test_a_low_score_of_another_class_does_not_show():
    tracker = Tracker(torch.tensor([0.6, 0.8]), fps=25)
    for frame in range(3):
        assert len(tracker(moving(frame))) == 2
    assert tracker(moving(3, score=0.5, label=2)).get_field("names") == ["blue"], "a red object is no blue one"
    found = tracker(moving(4, score=0.85, label=2))
    assert found.get_field("names") == ["blue", "blue"] and (found.get_field("track_ids") >= 0).all()


def test_a_lost_object_keeps_its_number_for_a_second():
    tracker = Tracker(torch.tensor([0.3, 0.3]), fps=10)
    for frame in range(4):
        known = tracker(moving(frame)).get_field("track_ids").tolist()
    for _ in range(5):
        assert len(tracker(moving(0)[[]])) == 0
    assert tracker(moving(4)).get_field("track_ids").tolist()[0] == known[0]
    for _ in range(12):
        tracker(moving(0)[[]])
    assert tracker(moving(4)).get_field("track_ids").tolist() == [-1, -1]


def test_a_threshold_of_zero():
    tracker = Tracker(torch.zeros(2), fps=25)
    assert len(tracker(moving(0))) == 2
    assert (tracker(moving(1)).get_field("track_ids") >= 0).all()


@pytest.mark.parametrize(
    ("package", "make", "purpose"),
    [
        ("trackers", lambda: Tracker(torch.zeros(2), 25), "--track"),
        ("supervision", lambda: on_tiles(find_squares, 64, 24), "--slice"),
        ("supervision", lambda: moving(0).to_supervision(), "Conversion to supervision.Detections"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, make, purpose):
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name=name)))
    with pytest.raises(InputError, match=rf"{purpose} needs the package {package}.*pip install 'fcos_core\[track\]'"):
        make()
