"""Training on two hosts: network namespaces whose virtual cable is cut during the training."""

import os
import subprocess
import time

import pytest
import torch

from fcos_core.utils.metrics_file import read_metrics

ADDRESSES = ("10.231.77.1", "10.231.77.2")
WORDS = (
    *("SOLVER.MAX_ITER", "30", "SOLVER.LOG_PERIOD", "1", "SOLVER.CHECKPOINT_PERIOD", "5", "--skip-test"),
    *("INPUT.MIN_SIZE_RANGE_TRAIN", "(40, 96)", "DISTRIBUTED.TIMEOUT", "8"),
)
LOSSES = ("loss_cls", "loss_reg", "loss_centerness")


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Create two network namespaces; the interface of each to the other has the namespace's name."""
    names = [f"fcos{os.getpid()}{letter}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        remove(names)
        pytest.skip(f"network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}")
    yield names
    remove(names)


def remove(names):
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def start(workspace, hosts, folders):
    """Run the documented command on each host; the second host does not see the folder of the first."""
    trainings = []
    for number, (host, folder) in enumerate(zip(hosts, folders, strict=True)):
        rendezvous = (f"--node-rank={number}", f"--master-addr={ADDRESSES[0]}", "--master-port=29500")
        launcher = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", *rendezvous)
        words = (*WORDS, "OUTPUT_DIR", str(folder))
        trainings.append(workspace.start("train_net.py", *words, launcher=launcher, host=host))
    return trainings


def losses(folder):
    return [[row[name] for name in LOSSES] for row in read_metrics(folder / "metrics.jsonl")]


def test_a_cable_is_cut(workspace, hosts):
    reference = workspace.folder / "reference"
    assert workspace.run_processes(2, "train_net.py", *WORDS, "OUTPUT_DIR", str(reference)).returncode == 0

    folders = [workspace.folder / name for name in ("first", "second")]
    trainings = start(workspace, hosts, folders)
    end = time.monotonic() + 60
    while not (folders[0] / "metrics.jsonl").exists() or len(losses(folders[0])) < 7:
        assert time.monotonic() < end and trainings[0].poll() is None, trainings[0].communicate()
        time.sleep(0.02)
    ip("-n", hosts[0], "link", "set", hosts[0], "down")
    cut = time.monotonic()
    outputs = [training.communicate(timeout=60) for training in trainings]
    assert time.monotonic() - cut < 60
    for rank, ((output, error), training) in enumerate(zip(outputs, trainings, strict=True)):
        assert training.returncode != 0
        assert f"No progress for 8 s (DISTRIBUTED.TIMEOUT): process {rank} in iteration" in output + error
    saved = torch.load(folders[0] / (folders[0] / "last_checkpoint").read_text(), weights_only=True)["iteration"]
    assert 7 <= saved < 30

    ip("-n", hosts[0], "link", "set", hosts[0], "up")
    trainings = start(workspace, hosts, folders)
    outputs = [training.communicate(timeout=120) for training in trainings]
    assert all(training.returncode == 0 for training in trainings), outputs
    assert losses(folders[0]) == losses(reference)
    states = [torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (folders[0], reference)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not list(folders[1].glob("*.pth"))
