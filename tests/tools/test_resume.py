"""Training that is killed, stopped or damaged and resumed, compared with an uninterrupted one."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import is_running, wait_for, worker

from fcos_core.utils.metrics_file import read_metrics

# Options for every part with a state: momentum, statistics, an average, a scaler, random scales and flips.
WORDS = (
    *("SOLVER.LOG_PERIOD", "1", "SOLVER.EMA_DECAY", "0.9", "SOLVER.PRECISION", "float16"),
    *("SOLVER.CLIP_GRADIENT_NORM", "5", "INPUT.MIN_SIZE_RANGE_TRAIN", "(40, 96)", "--skip-test"),
)
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
# Numbers that depend on the load of the machine.
MEASURED = {"time", "data", "max_mem", "images_per_s"}


def rows(folder):
    return [
        {key: row[key] for key in row if key not in MEASURED} for row in read_metrics(Path(folder) / "metrics.jsonl")
    ]


def assert_same_state(folder, other):
    one, two = (torch.load(Path(path) / "model_final.pth", weights_only=True) for path in (folder, other))
    assert one["scaler"] == two["scaler"] and one["iteration"] == two["iteration"]
    momenta = [state["optimizer"]["state"] for state in (one, two)]
    for key in momenta[0]:
        assert torch.equal(momenta[0][key]["momentum_buffer"], momenta[1][key]["momentum_buffer"])
    for part in ("model", "ema"):
        assert all(torch.equal(value, two[part][key]) for key, value in one[part].items())


def iterations(folder):
    path = Path(folder) / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def reference(tmp_path_factory, tiny_config, make_workspace):
    """Run an uninterrupted training of 24 iterations; tests must not change its folder."""
    made = make_workspace(tmp_path_factory.mktemp("reference"), tiny_config)
    result = made.run("train_net.py", *WORDS, "SOLVER.MAX_ITER", "24")
    assert result.returncode == 0, result.stderr
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(reference, tmp_path, number):
    words = (*WORDS, "SOLVER.MAX_ITER", "24", "SOLVER.CHECKPOINT_PERIOD", "1000", "OUTPUT_DIR", str(tmp_path))
    training = reference.start("train_net.py", *words)
    wait_for(lambda: iterations(tmp_path) >= 2)
    training.send_signal(number)
    start = time.monotonic()
    output, error = training.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert training.returncode == 128 + number
    assert f"Received {number.name}: process 0 in iteration" in output and "is saved, start again" in output
    assert "Traceback" not in output + error
    saved = (tmp_path / "last_checkpoint").read_text()
    assert torch.load(tmp_path / saved, weights_only=True)["iteration"] >= 2
    assert reference.run("train_net.py", *words).returncode == 0
    assert rows(tmp_path) == rows(reference.out)
    assert_same_state(tmp_path, reference.out)


def test_a_damaged_checkpoint_costs_no_more_than_itself(reference, tmp_path):
    shutil.copytree(reference.out, tmp_path / "out")
    last = tmp_path / "out" / Path((tmp_path / "out" / "last_checkpoint").read_text()).name
    os.truncate(last, last.stat().st_size // 2)
    result = reference.run("train_net.py", *WORDS, "SOLVER.MAX_ITER", "24", "OUTPUT_DIR", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert "is damaged" in result.stdout and "Resuming from an earlier checkpoint" in result.stdout
    assert_same_state(tmp_path / "out", reference.out)


@pytest.fixture(scope="module")
def pair(reference):
    """Run an uninterrupted training of two processes; return its folder and words."""
    words = (*WORDS, "SOLVER.MAX_ITER", "24", "SOLVER.CHECKPOINT_PERIOD", "4", "MODEL.SYNCBN", "True")
    folder = reference.folder / "pair"
    result = reference.run_processes(2, "train_net.py", *words, "OUTPUT_DIR", str(folder))
    assert result.returncode == 0, result.stderr
    return folder, words


def test_a_job_whose_worker_is_killed_goes_on_by_itself(reference, pair, tmp_path):
    folder, words = pair
    launcher = (*TWO_PROCESSES, "--max-restarts=2")
    training = reference.start("train_net.py", *words, "OUTPUT_DIR", str(tmp_path), launcher=launcher)
    wait_for(lambda: iterations(tmp_path) >= 2)
    os.kill(worker(training.pid, rank=1), signal.SIGKILL)
    _, error = training.communicate(timeout=120)
    assert training.returncode == 0, error
    assert (tmp_path / "log.txt").read_text().count("Start training") == 2
    assert rows(tmp_path) == rows(folder)
    assert_same_state(tmp_path, folder)


def test_a_job_restarted_at_once_after_its_launcher_was_killed_goes_on_alone(reference, pair, tmp_path):
    folder, words = pair
    words = (*words, "OUTPUT_DIR", str(tmp_path))
    training = reference.start("train_net.py", *words, launcher=TWO_PROCESSES)
    wait_for(lambda: iterations(tmp_path) >= 2)
    workers = [worker(training.pid, rank) for rank in (0, 1)]
    training.kill()
    training.communicate()
    assert reference.run_processes(2, "train_net.py", *words).returncode == 0
    assert not any(is_running(pid) for pid in workers)
    assert rows(tmp_path) == rows(folder)
    assert_same_state(tmp_path, folder)


def test_a_launcher_that_is_told_to_leave_takes_everyone_along(reference, pair, tmp_path):
    folder, words = pair
    words = (*words, "OUTPUT_DIR", str(tmp_path))
    training = reference.start("train_net.py", *words, launcher=TWO_PROCESSES)
    wait_for(lambda: iterations(tmp_path) >= 2)
    workers = [worker(training.pid, rank) for rank in (0, 1)]
    training.send_signal(signal.SIGTERM)
    training.communicate(timeout=30)
    assert training.returncode != 0
    assert not any(is_running(pid) for pid in workers)
    assert (tmp_path / "last_checkpoint").exists()
    assert reference.run_processes(2, "train_net.py", *words).returncode == 0
    assert rows(tmp_path) == rows(folder)
    assert_same_state(tmp_path, folder)


def test_evaluation_during_training_keeps_the_best(reference, tmp_path):
    words = (*[word for word in WORDS if word != "--skip-test"], "TEST.USE_EMA", "True", "SOLVER.MAX_ITER", "5")
    whole = (*words, "TEST.EVAL_PERIOD", "2", "OUTPUT_DIR", str(tmp_path / "whole"))
    assert reference.run("train_net.py", *whole).returncode == 0
    found = {row["iteration"]: row["tiny/AP"] for row in rows(tmp_path / "whole") if "tiny/AP" in row}
    assert list(found) == [2, 4, 5]
    best = torch.load(tmp_path / "whole" / "model_best.pth", weights_only=True)
    assert best["best"] == max(found.values()) == found[best["iteration"]]
    # A training that was stopped between a checkpoint and its evaluation evaluates the checkpoint when it resumes.
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000004.pth")
    (tmp_path / "parts" / "model_final.pth").unlink()
    parts = (*words, "TEST.EVAL_PERIOD", "2", "OUTPUT_DIR", str(tmp_path / "parts"))
    assert reference.run("train_net.py", *parts).returncode == 0
    again = {row["iteration"]: row["tiny/AP"] for row in rows(tmp_path / "parts") if "tiny/AP" in row}
    assert again == found
    tested = (*words, "OUTPUT_DIR", str(tmp_path / "test"), "MODEL.WEIGHT", str(tmp_path / "whole" / "model_final.pth"))
    assert reference.run("test_net.py", *tested).returncode == 0
    results = json.loads((tmp_path / "test" / "inference" / "tiny" / "coco_results.json").read_text())
    assert results["bbox"]["AP"] == found[5]


@pytest.mark.slow
def test_killed_at_24_random_moments(reference, tmp_path):
    folder = {name: tmp_path / name for name in ("whole", "killed")}
    words = (*WORDS, "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.CHECKPOINT_KEEP_LAST", "3")
    long = (*words, "SOLVER.MAX_ITER", "100000", "OUTPUT_DIR", str(folder["killed"]))
    moments = random.Random(0)
    while_writing = 0
    tag = folder["killed"] / "last_checkpoint"
    for number in range(24):
        before = tag.exists() and tag.read_text()
        training = reference.start("train_net.py", *long)
        log, starts = folder["killed"] / "log.txt", 0
        if log.exists():
            starts = log.read_text().count("Start training")
        wait_for(lambda log=log, starts=starts: log.exists() and log.read_text().count("Start training") > starts)
        if number % 2:
            # Every other training gets on, also on a machine that is too slow for an iteration in this time.
            wait_for(lambda before=before: tag.exists() and tag.read_text() != before)
        time.sleep(moments.uniform(0, 0.6))
        training.kill()
        training.communicate()
        while_writing += bool(list(folder["killed"].glob("*.tmp")))
        check_last_checkpoint(folder["killed"])
    # How far it came depends on the machine: go on for a few iterations, and as far without a kill.
    last = iterations(folder["killed"]) + 3
    words = (*words, "SOLVER.MAX_ITER", str(last))
    for name in folder:
        done = reference.run("train_net.py", *words, "OUTPUT_DIR", str(folder[name]))
        assert done.returncode == 0, done.stderr
    assert rows(folder["killed"]) == rows(folder["whole"])
    assert iterations(folder["whole"]) == last >= 12
    assert_same_state(folder["killed"], folder["whole"])
    # Some kills must have interrupted the writing of a file.
    assert while_writing >= 2
    assert not list(folder["killed"].glob("*.tmp"))


def check_last_checkpoint(folder):
    tag = folder / "last_checkpoint"
    if tag.exists():
        saved = torch.load(folder / tag.read_text(), weights_only=True)
        # A checkpoint is written every iteration, before the next one begins.
        assert iterations(folder) - saved["iteration"] <= 1
