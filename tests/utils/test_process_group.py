"""Choice of the GPU of a process."""

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.errors import InputError
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
