"""Inputs of a prediction: every kind is told, every file is found once, and no result takes the place of an input."""

import logging
import os
from pathlib import Path, PurePath

import pytest
from PIL import Image

from fcos_core.engine.predict_inputs import find_sources
from fcos_core.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "a/2.PNG", "a/sub/1.jpg", "a/.hidden/3.jpg", "b/1.jpg", "b/1.gif", "b/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(name)
    Path("a/clip.avi").write_bytes(b"not looked at yet")
    Path("a/notes.txt").write_text("notes")
    return tmp_path


def found(*inputs, output="out"):
    return [(source.kind, source.location, str(source.output)) for source in find_sources(inputs, output)]


def test_a_folder_is_searched_with_its_subfolders_and_keeps_them(folder, caplog):
    caplog.set_level(logging.INFO)
    assert found("a") == [
        ("image", "a/1.jpg", "1.jpg"),
        ("image", "a/2.PNG", "2.PNG"),
        ("video", "a/clip.avi", "clip.mp4"),
        ("image", "a/sub/1.jpg", "sub/1.jpg"),
    ]
    assert "Left out 1 files in 'a'" in caplog.text


def test_pictures_of_equal_names_do_not_overwrite_each_other(folder):
    # A .gif is drawn as .png, because not every program shows other formats, and .gif has few colours.
    assert [output for _, _, output in found("a/1.jpg", "b")] == ["1.jpg", "1.png", "1_2.jpg", "1_2.png"]


def test_a_file_that_is_named_twice_is_one_source(folder):
    os.symlink("1.jpg", "a/link.jpg")
    assert len(found("a/1.jpg", "./a/1.jpg", str(folder / "a/1.jpg"), "a/link.jpg", "a/*.jpg")) == 1


def test_a_linked_folder_is_searched_once(folder):
    os.symlink("../b", "a/linked")
    os.symlink("..", "a/sub/back")  # to a itself, which is being searched
    names = [output for _, _, output in found("a")]
    assert names[-4:] == ["linked/1.png", "linked/1.jpg", "linked/1_2.png", "sub/1.jpg"]


def test_patterns(folder):
    assert found("*/1.jpg") == [("image", "a/1.jpg", "1.jpg"), ("image", "b/1.jpg", "1_2.jpg")]
    # Of what a pattern matches, only images and videos are taken; a folder is searched.
    assert [location for _, location, _ in found("a/[ns]*")] == ["a/sub/1.jpg"]
    Path("a/[1].jpg").write_bytes(Path("a/1.jpg").read_bytes())
    assert found("a/[1].jpg") == [("image", "a/[1].jpg", "[1].jpg")]


def test_cameras_and_streams(folder):
    assert found("0", "rtsp://user:secret@10.0.0.7:554/front/one", "http://host/clip.mp4") == [
        ("live", 0, "camera_0.mp4"),
        ("live", "rtsp://user:secret@10.0.0.7:554/front/one", "10.0.0.7_one.mp4"),
        ("live", "http://host/clip.mp4", "host_clip.mp4"),
    ]
    names = [source.name for source in find_sources(["0", "rtsp://user:secret@10.0.0.7/one"], "out")]
    assert names == ["camera 0", "rtsp://***@10.0.0.7/one"]
    Path("7").write_bytes(Path("a/1.jpg").read_bytes())
    assert found("7") == [("image", "7", "7.png")]  # a file comes before a camera, and its content tells what it is


def test_results_of_an_earlier_run_are_no_inputs(folder):
    Path("a/out").mkdir()
    Image.new("RGB", (8, 6)).save("a/out/1.jpg")
    assert not any("out" in PurePath(location).parts for _, location, _ in found("a", output="a/out"))


@pytest.mark.parametrize("output", ["b", "b/", "./a/../b"])
def test_a_picture_is_never_written_over_an_input(folder, output):
    with pytest.raises(
        InputError, match=r"written over the input '1\.(jpg|gif|png)'.*name another folder with --output"
    ):
        find_sources(["b"], output)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("c.jpg", r"The input 'c\.jpg' does not exist \(looked at /.*c\.jpg\): name an image, a folder"),
        ("c/*.jpg", r"No file matches the pattern 'c/\*\.jpg'"),
        ("a/notes.txt", "neither an image nor a video that OpenCV can open"),
        ("empty", "'empty' holds no image and no video"),
        ("a/n*", r"'a/n\*' holds no image and no video"),
        ("/dev/null", "neither a file nor a folder"),
        ("http://host/photo.jpg", "is an image; URLs are those of streams and videos: download it first"),
        ("rtsp://[::1/x", "is no URL of a stream"),
    ],
)
def test_what_is_no_input_is_a_sentence(folder, word, sentence):
    Path("empty").mkdir()
    with pytest.raises(InputError, match=sentence):
        find_sources([word], "out")
