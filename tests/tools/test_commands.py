"""The published commands on a tiny dataset."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fcos_core.evaluation.coco import METRICS

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = {
    "torch.distributed.launch": ("-m", "torch.distributed.launch", "--nproc_per_node=2", "--master_port=29713"),
    "torchrun": ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29714"),
}


def test_training_leaves_checkpoints_results_and_a_log(trained):
    assert (trained.out / "last_checkpoint").read_text() == str(trained.out / "model_final.pth")
    # CHECKPOINT_PERIOD is 2 and MAX_ITER 3.
    assert sorted(path.name for path in trained.out.glob("*.pth")) == ["model_0000002.pth", "model_final.pth"]
    results = json.loads((trained.out / "inference" / "tiny" / "coco_results.json").read_text())
    assert list(results["bbox"]) == list(METRICS)
    assert list(results["AP per class"]) == ["cat", "dog"]
    assert "Test on tiny" in (trained.out / "inference" / "tiny" / "report.html").read_text()
    log = (trained.out / "log.txt").read_text()
    assert log.count("\n") > 50
    assert "There is no CUDA device: running on the CPU." in log


def written(result) -> list[str]:
    """Return the names of the files that the last lines of a command's output name."""
    lines = result.stdout.splitlines()
    named = [line.removeprefix("Wrote ") for line in lines if line.startswith("Wrote ")]
    assert [f"Wrote {path}" for path in named] == lines[-len(named) :]
    return [Path(path).name for path in named if Path(path).is_file()]


def test_commands_end_with_the_paths_that_they_wrote(trained, tmp_path):
    assert {"model_final.pth", "log.txt", "metrics.jsonl", "coco_results.json"} <= set(written(trained.training))
    shutil.copytree(trained.out, tmp_path / "out")
    words = ("OUTPUT_DIR", str(tmp_path / "out"))
    # Nothing is left to train: the model of the first run is not written again.
    assert written(trained.run("train", *words, "--skip-test")) == ["log.txt"]
    results = written(trained.run("test", *words, "MODEL.WEIGHT", str(trained.out / "model_final.pth")))
    assert {"bbox.json", "coco_results.json", "predictions.pth"} <= set(results)


def test_log_line_has_the_fields_that_parsers_know(trained):
    number = r"\d+\.\d{4} \(\d+\.\d{4}\)"
    losses = "  ".join(f"{name}: {number}" for name in ("loss", "loss_cls", "loss_reg", "loss_centerness"))
    line = rf"eta: 0:00:00  iter: 3  {losses}  time: {number}  data: {number}  lr: \d\.\d{{6}}  max mem: \d+"
    assert re.search(line, trained.training.stdout)


def test_inference_logs_the_image_rate(trained):
    assert re.search(r"Total inference time: \d+\.\d s \(\d+\.\d{4} s / image, 1 processes\)", trained.training.stdout)


def test_second_run_resumes_from_the_output_folder(trained, tmp_path):
    words = ("SOLVER.MAX_ITER", "4", "OUTPUT_DIR", str(tmp_path / "out"), "--skip-test")
    shutil.copytree(trained.out, tmp_path / "out")
    result = trained.run("train_net.py", *words, "MODEL.WEIGHT", "not_looked_at.pth")
    assert result.returncode == 0, result.stderr
    assert "MODEL.WEIGHT is not read" in result.stdout
    assert torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["iteration"] == 4
    again = trained.run("train_net.py", *words)
    assert "Iteration 4 of 4 is done" in again.stdout


def test_the_file_that_is_named_is_tested_not_the_last_checkpoint(trained, tmp_path):
    shutil.copytree(trained.out, tmp_path / "out")
    # A model that scores all classes at 0.01, below the threshold, detects nothing.
    state = torch.load(trained.out / "model_final.pth", weights_only=True)["model"]
    state["rpn.head.cls_logits.weight"].zero_()
    state["rpn.head.cls_logits.bias"].fill_(-4.6)
    torch.save({"module." + key: value for key, value in state.items()}, tmp_path / "empty.pth")
    words = ("MODEL.WEIGHT", str(tmp_path / "empty.pth"), "OUTPUT_DIR", str(tmp_path / "out"))
    result = trained.run("test_net.py", *words)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "out" / "inference" / "tiny"
    assert json.loads((folder / "bbox.json").read_text()) == []
    results = json.loads((folder / "coco_results.json").read_text())
    assert results["bbox"]["AP"] == 0 and results["AP per class"] == {"cat": 0, "dog": 0}


def test_a_compiled_detector_has_the_same_results(trained, tmp_path):
    words = ("MODEL.WEIGHT", str(trained.out / "model_final.pth"), "OUTPUT_DIR", str(tmp_path))
    result = trained.run("test_net.py", *words, "TEST.COMPILE", "True")
    assert result.returncode == 0, result.stderr
    assert "Compiled for inference on cpu in torch.float32" in result.stdout
    found, plain = (
        json.loads((folder / "inference" / "tiny" / "coco_results.json").read_text())["bbox"]
        for folder in (tmp_path, trained.out)
    )
    assert found == pytest.approx(plain, abs=1e-6)


def test_expected_results_are_checked(trained, tmp_path):
    words = ("MODEL.WEIGHT", str(trained.out / "model_final.pth"), "OUTPUT_DIR", str(tmp_path))
    result = trained.run("test_net.py", *words, "TEST.EXPECTED_RESULTS", '[["bbox", "AP", 0.9, 0.01]]', fork=False)
    assert result.returncode == 1
    assert "error: bbox AP is 0." in result.stderr and "expected between 0.8600 and 0.9400" in result.stderr


def test_test_set_without_annotations(workspace, trained):
    del workspace.dataset["annotations"]
    workspace.write()
    result = workspace.run("test_net.py", "MODEL.WEIGHT", str(trained.out / "model_final.pth"))
    assert result.returncode == 0, result.stderr
    assert "no annotations" in result.stdout
    assert (workspace.out / "inference" / "tiny" / "bbox.json").is_file()
    assert not (workspace.out / "inference" / "tiny" / "coco_results.json").exists()


@pytest.mark.parametrize(
    ("name", "tool"), [*((name, "train_net.py") for name in LAUNCHERS), ("torch.distributed.launch", "train")]
)
def test_two_processes(workspace, name, tool):
    result = workspace.run(tool, launcher=LAUNCHERS[name])
    assert result.returncode == 0, result.stderr
    assert "Using 2 processes" in result.stdout
    assert result.stdout.count("iter: 3 ") == 1
    assert result.stdout.count(f"Wrote {workspace.out / 'model_final.pth'}\n") == 1
    assert (workspace.out / "inference" / "tiny" / "coco_results.json").is_file()


@pytest.mark.parametrize("flag", ["--local_rank=0", "--local-rank=0"])
def test_local_rank_is_accepted_in_both_spellings(workspace, flag):
    result = workspace.run("train_net.py", flag, "--skip-test", "SOLVER.MAX_ITER", "1")
    assert result.returncode == 0, result.stderr
    assert not (workspace.out / "inference").exists()


def test_pictures_are_drawn(trained):
    result = trained.run("draw_detections.py", "--count", "2", "--threshold", "0", fork=False)
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in (trained.out / "pictures").rglob("*.png"))
    assert names == ["1.png", "2.png", "losses.png"]
    assert sorted(written(result)) == names


def test_flops_of_the_published_table():
    output = subprocess.run([sys.executable, "tools/flops.py", "--all"], cwd=ROOT, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    differences = re.findall(r"([+-]\d+\.\d+)%$", output.stdout, re.MULTILINE)
    # The table prints the published column itself; counting conventions may differ by 1%.
    assert len(differences) == 13
    assert all(abs(float(difference)) < 1 for difference in differences)
