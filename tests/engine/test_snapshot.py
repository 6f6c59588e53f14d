"""The snapshot of a training, saved at any moment."""

import contextlib
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fcos_core.engine.snapshot import TrainingSnapshot
from fcos_core.weights.checkpointer import DetectronCheckpointer


@pytest.fixture
def snapshot(tmp_path):
    torch.manual_seed(0)
    return TrainingSnapshot(DetectronCheckpointer(None, nn.BatchNorm1d(2), save_dir=str(tmp_path)), {"iteration": 0})


def test_statistics_are_those_of_the_last_finished_iteration(snapshot):
    model = snapshot.checkpointer.model
    with snapshot.finishing(1):
        model(torch.randn(4, 2))
    finished = model.running_mean.clone()
    model(torch.randn(4, 2))
    assert snapshot.save() == "iteration 1 is saved, start again to resume from it"
    saved = torch.load(f"{snapshot.checkpointer.save_dir}/model_0000001.pth", weights_only=True)
    assert torch.equal(saved["model"]["running_mean"], finished)
    assert not torch.equal(model.running_mean, finished)
    assert snapshot.save_if_new() == "iteration 1 is saved already, start again to resume from it"


def test_it_is_saved_from_the_gpu_of_the_training(snapshot, monkeypatch):
    # GPU 0 is current in the watchdog's thread, whichever GPU the loop uses.
    waited = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_event(self, event):
            waited.append((self.device, event))

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    snapshot._event = SimpleNamespace(device=torch.device("cuda:1"))
    assert "is saved" in snapshot.save()
    assert waited == [(torch.device("cuda:1"), snapshot._event)]


def test_an_iteration_that_an_error_leaves_half_done_is_not_saved(snapshot):
    with pytest.raises(ZeroDivisionError), snapshot.finishing(1):
        raise ZeroDivisionError
    assert snapshot.save() == "the iteration was half done and is not saved"


def test_a_child_that_dies_does_not_leave_an_iteration_half_done(snapshot):
    def as_torch_answers(*_):
        raise RuntimeError("DataLoader worker (pid 1) is killed")

    former = signal.signal(signal.SIGCHLD, as_torch_answers)
    try:
        with snapshot.finishing(1):
            subprocess.Popen(["true"])
            time.sleep(0.2)
        assert signal.getsignal(signal.SIGCHLD) is as_torch_answers
    finally:
        signal.signal(signal.SIGCHLD, former)
    assert snapshot.save().startswith("iteration 1 is saved")
