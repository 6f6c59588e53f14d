"""Choice of the GPU of a process."""

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.utils import process_group
from fcos_core.utils.process_group import init_processes


@pytest.fixture
def taken(monkeypatch):
    """Record the numbers of the GPUs that become current, on a machine with two GPUs."""
    numbers = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", numbers.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return numbers


def start(device):
    config = cfg.clone()
    config.merge_from_list(["MODEL.DEVICE", device])
    init_processes(config, None)


@pytest.mark.parametrize(("device", "numbers"), [("cpu", []), ("cuda", []), ("cuda:0", [0]), ("cuda:1", [1])])
def test_a_gpu_that_is_named_is_the_current_one_of_a_single_process_too(taken, device, numbers):
    start(device)
    assert taken == numbers


@pytest.mark.parametrize("device", ["cuda:2", "cuda:", "cuda:x", "cuda:-1"])
def test_a_gpu_that_is_not_there_is_named(taken, device):
    with pytest.raises(InputError, match=f"MODEL.DEVICE is '{device}': write cuda:0 to cuda:1"):
        start(device)
    assert not taken


WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def joined(monkeypatch):
    """Clear the launcher's variables, and record what the process would join."""
    calls = []
    monkeypatch.setattr(process_group, "_join", lambda *arguments: calls.append(arguments[:3]))
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": None}, "RANK is not set (with WORLD_SIZE=2"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set (with RANK=1"),
        (dict.fromkeys(("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")), "WORLD_SIZE is not set (with RANK"),
        (dict.fromkeys(("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")), "RANK is not set (with WORLD_SIZE=2)"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is ''"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999'"),
        ({"RANK": "2"}, "RANK is '2' (with WORLD_SIZE=2, LOCAL_RANK=0"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "first"}, "RANK is 'first'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE is '2.0'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '999"),
        ({"LOCAL_RANK": "\u0663"}, "LOCAL_RANK is"),
        ({"LOCAL_RANK": "7"}, "LOCAL_RANK is '7'"),
    ],
)
def test_variables_of_a_launcher_that_do_not_fit(joined, monkeypatch, change, words):
    for name, value in {**WHOLE, **change}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        start("cpu")
    assert words in str(caught.value) and "torchrun" in str(caught.value)
    assert not joined


@pytest.mark.parametrize(
    ("variables", "calls"),
    [
        (WHOLE, [("gloo", 1, 2)]),
        ({**WHOLE, "RANK": "0", "WORLD_SIZE": "1"}, []),
        ({"WORLD_SIZE": "1"}, []),
        ({"WORLD_SIZE": "1", "RANK": "0"}, []),
        ({"MASTER_ADDR": "localhost"}, []),  # left over from other work
        ({}, []),
    ],
)
def test_variables_of_a_launcher_that_fit(joined, monkeypatch, variables, calls):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    start("cpu")
    assert joined == calls


def test_others_that_cannot_be_reached(joined, monkeypatch):
    def fail(*_):
        raise torch.distributed.DistNetworkError("The server socket cannot be used.\nEADDRINUSE")

    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process_group, "_join", fail)
    with pytest.raises(InputError, match=r"Process 1 of 2 cannot join the others at localhost, port 29500: The server"):
        start("cpu")
