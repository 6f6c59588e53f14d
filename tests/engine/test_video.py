"""Videos: frames are counted and complete, and what OpenCV does not tell is told."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fcos_core.engine import video as module
from fcos_core.engine.video import VideoReader, VideoWriter
from fcos_core.errors import InputError


def make_video(path, count=12, fps=12.5, size=(64, 48), codec="MJPG"):
    """Write a video whose frame i is grey with the value 10 * i, up to 250."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    for number in range(count):
        writer.write(np.full((size[1], size[0], 3), min(10 * number, 250), np.uint8))
    writer.release()
    return path


def test_frames_come_in_order_with_number_size_and_rate(tmp_path):
    video = VideoReader(str(make_video(tmp_path / "é %04d.avi")))
    assert (video.fps, video.total) == (12.5, 12)
    frames = list(video.frames())
    assert [number for number, _ in frames] == list(range(12)) and frames[0][1].size == (64, 48)
    # JPEG keeps flat grey up to rounding.
    assert all(abs(np.asarray(image).mean() - 10 * number) < 2 for number, image in frames)


def test_a_written_video_has_the_colours_and_the_rate_of_its_frames(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4", 7.5, (64, 48))
    writer.write(Image.new("RGB", (64, 48), "red"), times=3)
    writer.write(Image.new("RGB", (128, 96), "blue"))
    assert not (tmp_path / "out.mp4").exists(), "a file that is not finished cannot be played"
    writer.close()
    video = VideoReader(str(tmp_path / "out.mp4"))
    assert (video.fps, video.total) == (7.5, 4)
    colours = [np.asarray(image).reshape(-1, 3).mean(0).argmax() for _, image in video.frames()]
    assert colours == [0, 0, 0, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_video_that_ends_early_is_damaged(tmp_path):
    path = make_video(tmp_path / "v.avi", count=40)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    seen = []
    with pytest.raises(InputError, match=r"v\.avi' ended after \d+ of 40 frames: it is damaged or incomplete"):
        seen.extend(VideoReader(str(path)).frames())
    assert 5 < len(seen) < 30, "the frames before the damage are there"


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_a_file_that_is_no_video(tmp_path, content, capfd):
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot open '.*v\.mp4': it is damaged, incomplete or of a kind"):
        VideoReader(str(tmp_path / "v.mp4"))
    assert capfd.readouterr().err == ""


def test_cameras_and_addresses_that_are_not_there():
    with pytest.raises(InputError, match="cannot open camera 99: there is none"):
        VideoReader(99)
    with pytest.raises(InputError, match=r"cannot open 'http://\*\*\*@127\.0\.0\.1:9/v': check the address, the login"):
        VideoReader("http://me:secret@127.0.0.1:9/v")


def test_a_name_that_is_not_utf_8(tmp_path):
    with pytest.raises(InputError, match="its name is not UTF-8"):
        VideoReader(str(tmp_path / "\udcff.avi"))


def test_a_video_that_cannot_be_written():
    with pytest.raises(InputError, match=r"cannot write the video '/proc/v\.mp4' \(64x48, 25 frames per second\)"):
        VideoWriter(Path("/proc/v.mp4"), 25, (64, 48))


def test_frames_that_a_full_disk_swallows_are_an_error(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4", 25, (64, 48))
    writer.write(Image.new("RGB", (64, 48)), times=3)
    writer.count += 1  # a frame that OpenCV has not written, and has not complained about
    with pytest.raises(InputError, match=r"out\.mp4' has 3 of 4 frames: free disk space"):
        writer.close()


@pytest.mark.parametrize("told", [0.0, -1.0, float("nan"), 90000.0])
def test_a_rate_that_no_camera_has_is_replaced(monkeypatch, told):
    monkeypatch.setattr(Camera, "get", lambda _self, key: told if key == cv2.CAP_PROP_FPS else 0)
    monkeypatch.setattr(module.cv2, "VideoCapture", Camera)
    assert VideoReader(0).fps == module.FPS


class Camera:
    """A camera that has a new frame every 20 ms, 50 of them."""

    def __init__(self, *_):
        self.count = 0

    def isOpened(self):
        return True

    def get(self, _):
        return 0

    def read(self):
        if self.count == 50:
            return False, None
        time.sleep(0.02)
        self.count += 1
        return True, np.full((4, 4, 3), self.count - 1, np.uint8)

    def release(self):
        self.count = 50


def test_live_pictures_do_not_fall_behind(monkeypatch):
    monkeypatch.setattr(module.cv2, "VideoCapture", Camera)
    numbers = []
    for number, image in VideoReader(0, newest=True).frames():
        assert image.getpixel((0, 0)) == (number, number, number)
        numbers.append(number)
        time.sleep(0.1)  # a detector that is slower than the camera
    assert numbers == sorted(set(numbers)) and len(numbers) < 25
    assert numbers[-1] == 49


def test_live_pictures_end_when_nobody_looks_any_more(monkeypatch):
    monkeypatch.setattr(module.cv2, "VideoCapture", Camera)
    video = VideoReader(0, newest=True)
    frames = video.frames()
    next(frames)
    frames.close()
    assert video._capture.count == 50, "released"
