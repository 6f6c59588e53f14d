"""The benchmark's command line, on the quickest measure."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*words):
    command = [sys.executable, "tools/benchmark.py", "--device", "cpu", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_tables_are_printed_and_written(tmp_path):
    result = run("--annotations", "--coco-scale", "0.0001", "--json", str(tmp_path / "out.json"))
    assert result.returncode == 0, result.stderr
    assert "tools/benchmark.py --device cpu --annotations" in result.stdout
    assert "### Annotation file" in result.stdout and "12 images, 86 boxes" in result.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    assert list(content["tables"]) == ["annotations"]
    assert content["settings"]["coco_scale"] == 0.0001 and content["settings"]["device"] == "cpu"


def test_unknown_model_is_one_line_before_anything_is_measured():
    result = run("--annotations", "--models", "fcos_hrnet_w19_5l_2x")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: There is no model 'fcos_hrnet_w19_5l_2x'")
    assert "Traceback" not in result.stderr


def test_size_that_the_networks_cannot_take_is_one_line():
    result = run("--latency", "--height", "100")
    assert result.returncode == 1
    assert result.stderr == "error: --height is 100: write a multiple of 32.\n"
