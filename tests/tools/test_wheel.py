"""The wheel, installed where there is no repository: every command runs from an empty folder."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# PYTHONPATH would show the repository.
VARIABLES = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
DRAW = "from fcos_core.data.shapes import write_shapes; write_shapes('demo/data', train=8, val=4)"
WHERE = "import fcos_core; from fcos_core.layers._operators import COMPILED; print(fcos_core.__file__, COMPILED)"
CONFIG = ("--config-file", "configs/demo/shapes.yaml", "MODEL.DEVICE", "cpu")
MODEL = ("MODEL.WEIGHT", "demo/shapes/model_final.pth")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new environment with the wheel; it takes PyTorch and the other packages from that of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", folder / "venv", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, env=VARIABLES, check=True)
    # A path in a .pth file is searched after the environment's own packages, and its .pth files are not read: an
    # installation of the repository in place is not seen.
    (packages,) = (folder / "venv" / "lib").glob("*/site-packages")
    (packages / "torch.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv"


@pytest.fixture(scope="module")
def run(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")

    def run(program, *words):
        command = [environment / "bin" / program, *words]
        done = subprocess.run(command, cwd=folder, env=VARIABLES, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.mark.slow
def test_the_package_is_the_wheels_with_operators(run, environment):
    file, compiled = run("python", "-c", WHERE).split()
    assert Path(file).is_relative_to(environment) and compiled == "True"


@pytest.mark.slow
def test_every_command_runs_from_an_empty_folder(run):
    assert "fcos train " in run("fcos", "--help")
    assert "not a checkout" in run("fcos", "env")
    assert "configs/zoo/mmdet_fcos_hrnetv2p_w32.yaml" in run("fcos", "zoo")
    run("python", "-c", DRAW)
    words = ("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "4")
    assert "Wrote demo/shapes/model_final.pth\n" in run("fcos", "train", *CONFIG, *words)
    assert "Wrote demo/shapes/inference/shapes_val/bbox.json\n" in run("fcos", "test", *CONFIG, *MODEL)
    assert "Wrote demo/shapes/pictures/losses.png\n" in run("fcos", "draw_detections", *CONFIG)
    words = ("--weights", MODEL[1], "--input", "demo/data/val", "--threshold", "0")
    assert "Wrote detections/detections.json\n" in run("fcos", "predict", *words)
    assert "Wrote w.onnx\n" in run("fcos", "export", *CONFIG, *words[:2], "--format", "onnx", "--output", "w.onnx")
    assert "Wrote inspection/contact_sheet.jpg\n" in run("fcos", "inspect", *CONFIG[:2])
    assert "Wrote w.safetensors\n" in run("fcos", "strip_checkpoint", MODEL[1], "w.safetensors")
