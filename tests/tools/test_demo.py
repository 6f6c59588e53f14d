"""README's demo from drawing the dataset to drawing the detections, and the quality of its detector."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, check=True)


def test_shapes_are_drawn_the_same_each_time_and_hold_every_case(tmp_path):
    for folder in ("one", "two"):
        call("tools/make_shapes_dataset.py", tmp_path / folder, "--train", 160, "--val", 2)
    trees = [json.loads((tmp_path / folder / "instances_train.json").read_text()) for folder in ("one", "two")]
    assert trees[0] == trees[1]
    images, annotations = trees[0]["images"], trees[0]["annotations"]
    assert {a["category_id"] for a in annotations} == {1, 2, 3}
    assert any(a["iscrowd"] for a in annotations)
    assert len({a["image_id"] for a in annotations}) < len(images)  # some images are empty
    for name in (image["file_name"] for image in images[:5]):
        assert (tmp_path / "one" / "train" / name).read_bytes() == (tmp_path / "two" / "train" / name).read_bytes()


@pytest.mark.slow
def test_demo_reaches_what_readme_promises(tmp_path):
    call("tools/make_shapes_dataset.py", tmp_path / "data")
    config = (
        "--config-file",
        "configs/demo/shapes.yaml",
        "DATASETS.DATA_DIR",
        tmp_path / "data",
        "OUTPUT_DIR",
        tmp_path,
    )
    call("tools/train_net.py", *config, "--skip-test", "MODEL.DEVICE", "cpu")
    call("tools/test_net.py", *config, "MODEL.WEIGHT", tmp_path / "model_final.pth", "MODEL.DEVICE", "cpu")
    call("tools/draw_detections.py", *config)
    call("tools/export.py", *config, "--weights", tmp_path / "model_final.pth", "--format", "onnx")
    assert (tmp_path / "model_final.onnx").is_file()  # written only if ONNX Runtime finds what PyTorch finds
    assert (tmp_path / "inference" / "shapes_val" / "report.html").is_file()
    results = json.loads((tmp_path / "inference" / "shapes_val" / "coco_results.json").read_text())
    # README promises these values; 0.71 and 0.96 were measured.
    assert results["bbox"]["AP"] >= 0.50
    assert results["bbox"]["AP50"] >= 0.80
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 13
