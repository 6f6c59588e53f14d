"""tools/demo.py: from files to detections with the real command."""

import csv
import ctypes
import ctypes.util
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from forked import ForkedCommand
from PIL import Image, ImageGrab
from processes import wait_for

from fcos_core.commands import predict as command
from fcos_core.commands.predict import main
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.weights.checkpointer import DetectronCheckpointer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(small_config, tmp_path_factory):
    """Make a checkpoint, with its config and class names, of a detector that finds cats and dogs everywhere."""
    config = small_config.clone()
    config.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 3, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96])
    config.merge_from_list(["TEST.DETECTIONS_PER_IMG", 5, "MODEL.FCOS.PRIOR_PROB", 0.5])
    torch.manual_seed(0)
    model = build_detection_model(config)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.5)
    folder = tmp_path_factory.mktemp("weights")
    checkpointer = DetectronCheckpointer(config, model, save_dir=str(folder))
    checkpointer.categories = ["cat", "dog"]
    checkpointer.save("model_final")
    return str(folder / "model_final.pth")


@pytest.fixture
def inputs(tmp_path):
    """Make a folder of three images, of which one is damaged, and a video."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / name)
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:2000])
    make_video(folder / "v.avi", 4)
    return folder


def make_video(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 60))
    for number in range(count):
        writer.write(np.full((60, 80, 3), 3 * number % 250, np.uint8))
    writer.release()


def start(*words, **environment):
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    others = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return ForkedCommand(["tools/demo.py", *map(str, words)], {**others, **own, **environment}, ROOT)


def test_all_kinds_of_inputs_in_one_call(weights, inputs, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "thresholds.json").write_text('{"dog": 1.0}')
    process = start(
        *("--weights", weights, "--thresholds", tmp_path / "thresholds.json", "--threshold", 0.1, "--track"),
        *("--output", out, "--slice", 48, "--input", inputs, f"{inputs}/a*", "TEST.IMS_PER_BATCH", 4),
    )
    stdout, stderr = process.communicate(timeout=300)
    # The damaged image is named, and the rest is done.
    assert process.returncode == 1 and "Traceback" not in stderr
    assert "error: 1 of 4 inputs could not be read to the end, the others are done. The image " in stderr
    assert "b.png' (looked at" in stderr and "cannot be read" in stderr
    with open(out / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    entries = json.loads((out / "detections.json").read_text())
    assert len(rows) == len(entries) > 0 and f"6 images, {len(rows)} detections, " in stdout
    assert {row["name"] for row in rows} == {"cat"}, "no dog has a score of 1"
    assert {row["file"] for row in rows} == {str(inputs / name) for name in ("a.png", "c.png", "v.avi")}
    assert {row["frame"] for row in rows} == {"", *map(str, range(4))} and any(row["track_id"] for row in rows)
    written = [line.removeprefix("Wrote ") for line in stdout.splitlines() if line.startswith("Wrote ")]
    names = ("detections.json", "detections.csv", "a.png", "c.png", "v.mp4")
    assert written == [str(out / name) for name in names] and all(map(os.path.isfile, written))
    video = cv2.VideoCapture(str(out / "v.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 10 and video.get(cv2.CAP_PROP_FRAME_COUNT) == 4


def test_ctrl_c_leaves_a_video_that_can_be_played(weights, tmp_path):
    make_video(tmp_path / "long.avi", 3000)
    out = tmp_path / "out"
    process = start("--weights", weights, "--input", tmp_path / "long.avi", "--output", out)
    wait_for(lambda: (out / "long.part.mp4").is_file() or process.poll() is not None)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stderr.strip().endswith("Interrupted.") and "Traceback" not in stderr
    frames = json.loads((out / "detections.json").read_text())[-1]["frame"] + 1
    assert 0 < frames < 3000 and f"{frames} images" in stdout
    # One frame may be in the files of detections, and not yet in the video.
    assert frames - cv2.VideoCapture(str(out / "long.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) in (0, 1)
    assert sorted(path.name for path in out.iterdir()) == ["detections.csv", "detections.json", "long.mp4"]


def test_without_a_display_a_window_is_a_sentence(inputs, tmp_path):
    process = start("--weights", "any.pth", "--input", inputs / "a.png", "--show", "--output", tmp_path / "out")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in stderr
    assert "error: --show cannot open a window: there is no display" in stderr


@pytest.fixture
def display():
    if shutil.which("Xvfb") is None or ctypes.util.find_library("Xtst") is None:
        pytest.skip("Xvfb or libXtst6, which presses keys, is not installed")
    read, write = os.pipe()
    # Without -noreset the server refuses new clients for a moment whenever the last one has left.
    command = ["Xvfb", "-displayfd", str(write), "-noreset", "-screen", "0", "800x600x24"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as file:
        yield f":{file.readline().strip()}"
    server.terminate()
    server.wait()


def press(display, key):
    """Move the pointer to where the window is, so that it has the keyboard, and press a key."""
    x11, test = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXtst.so.6")
    x11.XOpenDisplay.restype, x11.XStringToKeysym.restype = ctypes.c_void_p, ctypes.c_ulong
    server = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))
    code = x11.XKeysymToKeycode(server, ctypes.c_ulong(x11.XStringToKeysym(key.encode())))
    test.XTestFakeMotionEvent(server, -1, 40, 40, 0)
    for call, number in ((test.XTestFakeButtonEvent, 1), (test.XTestFakeKeyEvent, code)):
        for is_down in (1, 0):
            call(server, number, is_down, 0)
    x11.XCloseDisplay(server)


def test_a_window_shows_what_is_found_until_q_is_pressed(display, weights, inputs, tmp_path):
    out = tmp_path / "out"
    words = ("--weights", weights, "--input", inputs / "a.png", inputs / "c.png", "--show", "--no-pictures")
    process = start(*words, "--output", out, DISPLAY=display)

    def is_shown():
        assert process.poll() is None, process.communicate()
        # The screen is black; 80x60 pixels are enlarged to 480x360 for the boxes and names.
        return np.asarray(ImageGrab.grab(xdisplay=display).convert("L"))[:360, :480].mean() > 50

    wait_for(is_shown)
    time.sleep(0.3)
    assert process.poll() is None, "an image waits for a key"
    press(display, "q")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "1 images, " in stdout and "QFont" not in stderr


@pytest.fixture
def found(monkeypatch):
    """Stand in for the detector; return the words that it was made with."""
    seen = []

    class Stop(Exception):
        pass

    def stop(parsed):
        seen.append(parsed)
        raise Stop

    monkeypatch.setattr(command, "make_predictor", stop)
    return seen, Stop


@pytest.mark.parametrize(
    "words",
    [
        ["--input", "A", "B", "MODEL.DEVICE", "cpu", "--output", "O"],
        ["MODEL.DEVICE", "cpu", "--output", "O", "--input", "A", "B"],
        ["A", "B", "--output", "O", "MODEL.DEVICE", "cpu"],
        ["A", "--output", "O", "--input", "B", "MODEL.DEVICE", "cpu"],
    ],
)
def test_inputs_and_overrides_are_told_apart_wherever_they_stand(inputs, found, tmp_path, words):
    seen, stop = found
    paths = {"A": str(inputs / "a.png"), "B": str(inputs), "O": str(tmp_path / "out")}
    with pytest.raises(stop):
        main([paths.get(word, word) for word in words])
    assert seen[0].opts == ["MODEL.DEVICE", "cpu"] and sorted(seen[0].input) == sorted([paths["A"], paths["B"]])


def test_without_an_input_the_option_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["--weights", "any.pth"])
    assert "name images or videos: --input PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--threshold", "40"], "--threshold is 40.0: write a score from 0 to 1"),
        (["--slice", "8"], "--slice is 8: write pixels, 32 or more"),
        (["--slice", "64", "--overlap", "64"], "--overlap is 64: write pixels, fewer than a tile has"),
        (["--track"], "every input is an image: leave it out"),
        (["--thresholds", "none.json", "--weights", "{weights}"], r"'none\.json' is not a file: tools/test_net\.py"),
        (["--thresholds", "{list}", "--weights", "{weights}"], "is not an object of class names and scores"),
        (["--thresholds", "{text}", "--weights", "{weights}"], r"text\.json' cannot be read as JSON"),
        ([], "needs a config: give the path of the YAML"),
        (["MODEL.NOTHING", "1", "--weights", "{weights}"], r"MODEL\.NOTHING"),
    ],
)
def test_words_of_no_use_are_sentences(weights, inputs, tmp_path, words, sentence):
    (tmp_path / "list.json").write_text("[0.3]")
    (tmp_path / "text.json").write_text("cat: 0.3")
    paths = {"weights": weights, "list": tmp_path / "list.json", "text": tmp_path / "text.json"}
    words = [word.format_map(paths) for word in words]
    with pytest.raises(InputError, match=sentence):
        main([*words, "--input", str(inputs / "a.png"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--weights training_dir/run/model_final.pth --input photos clip.mp4" in capsys.readouterr().out
