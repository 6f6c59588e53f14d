"""Predictions of files: every picture gets its results, what is damaged is named, and an interrupt loses nothing."""

import csv
import json
import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from test_video import make_video

from fcos_core.engine.predict import predict
from fcos_core.engine.predict_inputs import find_sources
from fcos_core.errors import InputError
from fcos_core.predictor import read_image
from fcos_core.structures.bounding_box import BoxList

NAMES = ("cat", "dog, or not")


class Detector:
    """Finds a cat at the top left and a dog at the bottom right of every picture, and counts the pictures."""

    def __init__(self, continuous=False, stop_at=None):
        self.batches, self.continuous, self.stop_at = [], continuous, stop_at

    def __call__(self, images):
        self.batches.append(len(images))
        if self.stop_at is not None and sum(self.batches) > self.stop_at:
            raise KeyboardInterrupt
        return [self.detect(*image.size) for image in images]

    def detect(self, width, height):
        last = 0 if self.continuous else 1
        corners = [[0, 0, 10 - last, 20 - last], [width - 16, height - 8, width - last, height - last]]
        boxes = BoxList(corners, (width, height), continuous=self.continuous)
        boxes.add_field("scores", torch.tensor([0.9, 0.123456]))
        boxes.add_field("labels", torch.tensor([1, 2]))
        boxes.add_field("names", list(NAMES))
        return boxes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        Image.new("RGB", (400, 330), (40 * number, 0, 0)).save(f"{number}.jpg")
    return tmp_path


def run(folder, *inputs, detector=None, **options):
    detector = detector or Detector()
    sources = find_sources(inputs or ["."], folder / "out")
    return predict(detector, sources, folder / "out", NAMES, read_image, **options)


def rows_of(folder):
    with open(folder / "out" / "detections.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return json.loads((folder / "out" / "detections.json").read_text()), rows


@pytest.mark.parametrize("continuous", [False, True])
def test_files_of_detections_say_the_same_and_are_coco_results(folder, continuous):
    summary = run(folder, "1.jpg", "0.jpg", detector=Detector(continuous))
    found, rows = rows_of(folder)
    assert (summary.images, summary.detections, summary.failures) == (2, 4, [])
    assert found[3] == {
        "image_id": 2,
        "file_name": "0.jpg",
        "category_id": 2,
        "category_name": "dog, or not",
        "bbox": [384.0, 322.0, 16.0, 8.0],  # width and height are counted in pixels, whatever the detector's convention
        "score": 0.12346,
    }
    assert list(rows[3].values()) == ["0.jpg", "", "384.0", "322.0", "400.0", "330.0", "0.12346", "2", NAMES[1], ""]
    truth = COCO()
    truth.dataset = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1}, {"id": 2}], "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(found).anns) == 4


def test_pictures_have_what_was_found_drawn_on_them(folder):
    summary = run(folder, batch=2)
    assert [path.name for path in summary.written] == [
        "detections.json",
        "detections.csv",
        *(f"{i}.jpg" for i in range(5)),
    ]
    drawn = Image.open(folder / "out" / "4.jpg")
    assert drawn.size == (400, 330)
    difference = np.abs(np.asarray(drawn, int) - np.asarray(Image.open("4.jpg"), int)).sum(-1) > 100
    assert difference[322:, 384:].any() and not difference[100:200].any()


def test_images_are_handed_over_in_batches_and_in_order(folder):
    detector = Detector()
    run(folder, detector=detector, batch=2, pictures=False)
    assert detector.batches == [2, 2, 1]
    assert [row["file_name"] for row in rows_of(folder)[0]] == [f"./{i}.jpg" for i in range(5) for _ in range(2)]
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["detections.csv", "detections.json"]


def test_unreadable_images_and_videos_are_named_and_the_others_go_on(folder, caplog):
    (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes()[:300])
    (folder / "9.mp4").write_bytes(b"no video")
    summary = run(folder)
    assert summary.images == 4 and len(summary.failures) == 2
    assert "2.jpg" in summary.failures[0] and "cannot be read" in summary.failures[0]
    assert "9.mp4" in summary.failures[1] and "cannot open" in summary.failures[1]
    assert all(failure in caplog.messages for failure in summary.failures)
    assert not (folder / "out" / "2.jpg").exists() and (folder / "out" / "4.jpg").exists()


def test_a_video_becomes_a_video_of_the_same_size_rate_and_length(folder):
    make_video(folder / "v.avi", count=10, fps=12.5, size=(96, 64))
    summary = run(folder, "v.avi", batch=4)
    found, rows = rows_of(folder)
    assert summary.images == 10 and [row["frame"] for row in found[::2]] == list(range(10))
    assert [row["image_id"] for row in found[::2]] == list(range(1, 11)) and rows[-1]["frame"] == "9"
    video = cv2.VideoCapture(str(folder / "out" / "v.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 12.5 and video.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    frame = video.read()[1]
    assert frame.shape == (64, 96, 3) and np.ptp(frame) > 50, "boxes are drawn on the grey frames"


def test_each_video_has_tracks_of_its_own_and_images_have_none(folder):
    for name in ("v", "w"):
        make_video(folder / f"{name}.avi", count=3, size=(96, 64))
    run(folder, "v.avi", "w.avi", "1.jpg", tracked=torch.tensor([0.1, 0.2]), pictures=False)
    found, rows = rows_of(folder)
    tracks = {(row["file_name"], row.get("frame")): row.get("track_id") for row in found if row["category_id"] == 1}
    assert tracks == {
        **{(f"{name}.avi", frame): None if frame == 0 else tracks["v.avi", 1] for name in "vw" for frame in range(3)},
        ("1.jpg", None): None,
    }
    assert tracks["v.avi", 1] is not None and rows[-1]["track_id"] == ""
    assert all(row["category_id"] == 1 for row in found), "a score of 0.12 continues a track at best"


def test_an_interrupt_leaves_whole_files_of_what_was_done(folder):
    make_video(folder / "v.avi", count=20)
    summary = run(folder, "v.avi", "1.jpg", detector=Detector(stop_at=8), batch=4)
    assert summary.interrupted and summary.images == 8
    assert rows_of(folder)[0][-1]["frame"] == 7
    assert cv2.VideoCapture(str(folder / "out" / "v.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 8
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["detections.csv", "detections.json", "v.mp4"]


def test_an_error_of_the_detector_does_not_take_what_was_found(folder):
    class Failing(Detector):
        def __call__(self, images):
            if len(self.batches) == 3:
                raise RuntimeError("out of memory")
            return super().__call__(images)

    with pytest.raises(RuntimeError, match="out of memory"):
        run(folder, detector=Failing())
    assert len(rows_of(folder)[0]) == 6


class Window:
    """A window whose user presses q at the second picture."""

    def __init__(self):
        self.shown = []

    def show(self, picture, wait):
        self.shown.append((picture.size, wait))
        return len(self.shown) < 2


def test_a_window_shows_each_picture_at_once_and_can_end_the_work(folder):
    window, detector = Window(), Detector()
    summary = run(folder, detector=detector, batch=4, window=window, pictures=False)
    assert detector.batches == [1, 1] and summary.images == 2 and not summary.interrupted
    assert window.shown == [((400, 330), True)] * 2
    make_video(folder / "v.avi")
    window = Window()
    run(folder, "v.avi", window=window)
    assert window.shown == [((64, 48), False)] * 2, "a video does not wait for keys, and keeps its size"


def test_names_that_are_not_utf_8_keep_their_bytes(folder):
    (folder / "1.jpg").rename(folder / "\udcff.jpg")
    run(folder, "\udcff.jpg")
    assert b"\n\xff.jpg,," in (folder / "out" / "detections.csv").read_bytes()
    assert json.loads((folder / "out" / "detections.json").read_text())[0]["file_name"] == "\udcff.jpg"
    assert (folder / "out" / "\udcff.jpg").exists()


def test_no_detections_make_empty_files(folder):
    run(folder, "1.jpg", detector=lambda images: [Detector().detect(*image.size)[[]] for image in images])
    assert rows_of(folder) == ([], [])


def test_an_output_that_cannot_be_written(folder):
    (folder / "out").write_text("a file is in the way")
    with pytest.raises(InputError, match=r"--output .*out' cannot be written to"):
        run(folder, "1.jpg")


def test_a_full_disk_names_the_file_and_the_option(folder, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(InputError, match=r"1\.jpg' cannot be written \(No space left.*set --output to another folder"):
        run(folder, "1.jpg")


def test_long_work_shows_its_progress(folder, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("fcos_core.utils.progress._PERIOD", 0)
    make_video(folder / "v.avi", count=3)
    run(folder, "v.avi", "1.jpg", pictures=False)
    assert "Detecting: 4 of 4 frames done" in caplog.text
