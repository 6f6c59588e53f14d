"""Scripts written for published code, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def run(workspace, *words):
    workspace.write()
    command = [sys.executable, "-m", "fcos_core.as_maskrcnn_benchmark", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=workspace.folder, env=environment, capture_output=True, text=True, timeout=300)


def test_train_test_and_remove_the_solvers_state(workspace):
    script, config = str(ROOT / "tests/tools/published_script.py"), str(workspace.folder / "tiny.yaml")
    done = run(workspace, script, config, "SOLVER.MAX_ITER", "3")
    assert done.returncode == 0, done.stderr
    # The model in memory and the one that `load` found by last_checkpoint are the same.
    first, second = [line for line in done.stdout.splitlines() if line.startswith("tested 5 ")]
    assert first == second
    # The library's lines are in the log of the published name.
    assert "iter: 3" in (workspace.out / "log.txt").read_text()
    small = torch.load(workspace.out / "model_final_wo_solver_states.pth")
    assert "model" in small and "optimizer" not in small
    last = (workspace.out / "last_checkpoint").read_text()
    assert last == str(workspace.out / "model_final.pth")


def test_a_missing_script_is_named(workspace):
    done = run(workspace, "no_such.py")
    assert done.returncode == 1 and "no_such.py" in done.stderr and "Traceback" not in done.stderr
