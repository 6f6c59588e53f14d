"""Turns, repeats, medians and ratios, on a clock that only the contenders advance."""

from functools import partial

import pytest
import torch

from benchmarks.report import speedup
from benchmarks.timing import Timing, interleave, wall_seconds

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still except during the calls of its contenders."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def contender(self, name, *seconds):
        """Make a contender whose calls take the given seconds in order; later calls take the last value."""
        left = list(seconds)

        def call():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call

    def interleave(self, contenders, **options):
        measure = partial(wall_seconds, clock=lambda: self.now)
        return interleave(contenders, CPU, measure=measure, **options)


def test_contenders_take_turns_and_begin_in_turn():
    clock = Clock()
    contenders = {name: clock.contender(name, 1.0) for name in "abc"}
    clock.interleave(contenders, rounds=4, warmup=2)
    # Two warm-up calls of each contender, one call of each that decides on repeats, then the rounds.
    assert "".join(clock.calls) == "aabbcc" + "abc" + "abc" + "bca" + "cab" + "abc"


def test_warmup_is_not_measured():
    clock = Clock()
    # Three slow calls: two warm-up calls and the call that decides on repeats.
    timings = clock.interleave({"a": clock.contender("a", 9, 9, 9, 1, 2, 3)}, rounds=3, warmup=2)
    assert timings["a"].seconds == pytest.approx((1, 2, 3))


def test_short_calls_are_repeated_and_times_are_per_call():
    clock = Clock()
    timings = clock.interleave({"a": clock.contender("a", 0.25)}, rounds=2, warmup=0, least_seconds=1.0)
    assert timings["a"].seconds == pytest.approx((0.25, 0.25))
    assert len(clock.calls) == 1 + 2 * 4


def test_median_quartiles_and_ratio_to_the_fastest_baseline():
    # The middle three of 1, 2, 3, 4, 100 are the quartiles and the median, so the outlier has no effect.
    timings = {
        "ours": Timing((100, 1, 3, 2, 4)),
        "plain": Timing((12, 12, 12, 12, 12)),
        "plain without TF32": Timing((30, 30, 30, 30, 30)),
    }
    ours = timings["ours"]
    assert (ours.lower, ours.median, ours.upper) == (2, 3, 4)
    assert speedup(timings, "ours", ["plain", "plain without TF32"]) == 4
    assert speedup(timings, "plain", ["plain", "plain without TF32"]) == 1
    assert speedup(timings, "plain without TF32", ["plain", "plain without TF32"]) == pytest.approx(0.4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_time_is_that_of_the_device():
    from benchmarks.timing import cuda_seconds

    device = torch.device("cuda")
    x = torch.rand(4096, 4096, device=device)
    torch.mm(x, x)
    once = min(cuda_seconds(lambda: torch.mm(x, x), device, 1) for _ in range(3))
    ten = min(cuda_seconds(lambda: torch.mm(x, x), device, 10) for _ in range(3))
    # Ten queued products take ten times as long as one, because neither the host's time nor the head start counts.
    assert 5 * once < ten < 15 * once
