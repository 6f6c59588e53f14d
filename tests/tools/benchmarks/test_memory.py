"""Measured memory of tensors of known size."""

import pytest
import torch

from benchmarks.memory import measure_memory

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
MB = 1_000_000


@pytest.mark.parametrize("device", DEVICES)
def test_memory_that_stays_and_memory_that_is_freed(device):
    device = torch.device(device)
    kept = []

    def make():
        kept.append(torch.ones(50 * MB, dtype=torch.uint8, device=device))
        torch.ones(100 * MB, dtype=torch.uint8, device=device)

    used = measure_memory(make, device)
    # The process itself takes a few MB.
    assert 45 * MB < used.added < 70 * MB
    assert 145 * MB < used.peak < 180 * MB


@pytest.mark.parametrize(("device", "peak"), [("cpu", 60), pytest.param("cuda", 300, marks=DEVICES[1].marks)])
def test_cpu_peak_leaves_out_the_first_call(device, peak):
    device = torch.device(device)
    sizes = [300 * MB, 60 * MB]

    def make():
        return lambda: torch.ones(sizes.pop(0), dtype=torch.uint8, device=device)

    assert (peak - 5) * MB < measure_memory(make, device).peak < (peak + 40) * MB
    assert sizes == []
