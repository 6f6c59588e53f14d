"""Which of two kernels is taken; times are made up where there is no GPU to measure them."""

import pytest
import torch

from fcos_core.layers import kernel_choice
from fcos_core.layers.kernel_choice import measured_kernels, use_fused

EXPECTED = torch.linspace(-3, 3, 4096)
# Where the outputs of fused kernels lie, as the GPU's allocator would place them.
MEMORY = torch.zeros_like(EXPECTED)


def right():
    return MEMORY.copy_(EXPECTED)


def separate():
    return EXPECTED.clone()


def without_engine():
    raise RuntimeError("GET was unable to find an engine to execute this computation")


def out_of_memory():
    raise RuntimeError("out of memory")


def wrong_in_one_place():
    MEMORY.copy_(EXPECTED)[1000] += 1
    return MEMORY


def adds_its_memory():
    return MEMORY.mul_(0).add_(EXPECTED)


@pytest.fixture
def times(monkeypatch):
    """Seconds by function; whatever is asked for is noted as measured."""
    made_up, measured = {separate: 1.0}, []

    def gpu_time(run):
        measured.append(run)
        return made_up[run]

    monkeypatch.setattr(kernel_choice, "_gpu_time", gpu_time)
    monkeypatch.setattr(kernel_choice, "_is_fused", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    MEMORY.zero_()
    return made_up, measured


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, True), (1.05, True), (1.2, False), (17.0, False)])
def test_the_faster_one_is_taken_and_measured_once(times, seconds, expected):
    made_up, measured = times
    made_up[right] = seconds
    with measured_kernels("float32"):
        assert [use_fused("key", right, separate) for _ in range(3)] == [expected] * 3
    assert measured == [right, separate]


def test_another_precision_is_measured_anew(times):
    made_up, measured = times
    for precision, seconds in (("float32", 0.5), ("tf32", 2.0)):
        made_up[right] = seconds
        with measured_kernels(precision):
            assert use_fused("key", right, separate) is (seconds < 1)
    assert len(measured) == 4


def test_outside_nothing_is_measured(times):
    assert not use_fused("key", right, separate)
    assert times[1] == []


def test_in_a_capture_nothing_is_measured(times, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    times[0][right] = 0.5
    with measured_kernels("float32"):
        assert not use_fused("key", right, separate)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        assert use_fused("key", right, separate)


@pytest.mark.parametrize("fused", [without_engine, wrong_in_one_place, adds_its_memory])
def test_a_kernel_that_is_missing_or_wrong_is_not_taken(times, fused):
    times[0][fused] = 0.1
    with measured_kernels("float32"):
        assert not use_fused("key", fused, separate)


def test_other_errors_are_passed_on(times):
    with measured_kernels("float32"), pytest.raises(RuntimeError, match="out of memory"):
        use_fused("key", out_of_memory, separate)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_more_work_takes_longer_on_the_gpu():
    few, many = (torch.ones(size, device="cuda") for size in (1 << 10, 1 << 28))
    assert kernel_choice._gpu_time(lambda: many + 1) > 5 * kernel_choice._gpu_time(lambda: few + 1)
