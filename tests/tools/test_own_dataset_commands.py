"""From a folder in the layout of Pascal VOC, with a truncated photograph, to a drawn detection in four commands."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from forked import ForkedCommand
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
OBJECT = "<object><name>{}</name><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>"


@pytest.fixture
def folder(tmp_path, tiny_config):
    rng = np.random.default_rng(0)
    for part in ("Annotations", "JPEGImages"):
        (tmp_path / "voc" / part).mkdir(parents=True)
    for number in range(10):
        image = tmp_path / "voc" / "JPEGImages" / f"{number}.jpg"
        Image.fromarray(rng.integers(0, 256, (64, 72, 3), dtype=np.uint8)).save(image)
        text = OBJECT.format(("cat", "dog")[number % 2])
        (tmp_path / "voc" / "Annotations" / f"{number}.xml").write_text(f"<annotation>{text}</annotation>")
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    solver = {"MAX_ITER": 0, "STEPS": [], "ITER_FACTOR": 0.005, "IMS_PER_BATCH": 2}
    keys = {key: tiny_config[key] for key in ("MODEL", "INPUT", "DATALOADER")}
    base = yaml.safe_load(yaml.safe_dump({**keys, "SOLVER": solver}))
    base["MODEL"]["FCOS"]["NUM_CLASSES"] = 0
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    return tmp_path


def test_four_commands_lead_to_a_drawn_detection(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    weights = "training_dir/made/model_final.pth"
    commands = (
        ["convert_dataset.py", "voc", "made", "--split", "0.8/0.2"],
        ["inspect_dataset.py", "made", "--base", "base.yaml", "--write", "own.yaml"],
        ["train_net.py", "--config-file", "own.yaml", "--skip-test"],
        ["demo.py", "--config-file", "own.yaml", "--weights", weights, "--input", "voc/JPEGImages/1.jpg"]
        + ["--output", "found", "--threshold", "0.0", "TEST.COMPILE", "False", "MODEL.FCOS.INFERENCE_TH", "0.0"],
    )
    printed = []
    for program, *words in commands:
        command = ForkedCommand([str(ROOT / "tools" / program), *words], environment, folder)
        out, errors = command.communicate(timeout=120)
        assert command.returncode == 0, (program, errors)
        printed.append(out)
    assert "9.jpg: image file is truncated" in printed[0] and "1 problem; left out: 1 image and 0 boxes." in printed[0]
    assert "made_train: 7 images (72x64)" in printed[1]
    assert f"Wrote {folder / weights}" in printed[2].replace("Wrote training_dir", f"Wrote {folder}/training_dir")
    assert Image.open(folder / "found" / "1.jpg").size[0] >= 72
    assert (folder / "found" / "detections.csv").read_text().count("\n") > 1
