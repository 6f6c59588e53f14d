"""Running statistics of a training."""

import math

from fcos_core.utils.meters import MetricLogger


def test_what_is_not_finite_spoils_neither_the_average_nor_the_file():
    meters = MetricLogger(window_size=3)
    for norm in (math.inf, 2.0, 4.0):
        meters.update(loss=1.0, grad_norm=norm)
    assert meters.medians() == {"loss": 1.0, "grad_norm": 4.0}
    assert meters.meters["grad_norm"].global_avg == 3.0
    for _ in range(2):
        meters.update(loss=1.0, grad_norm=math.inf)
    assert meters.medians() == {"loss": 1.0}
    assert str(meters) == "loss: 1.0000 (1.0000)  grad_norm: inf (3.0000)"


def test_nothing_finite_yet():
    meters = MetricLogger()
    meters.update(grad_norm=math.inf)
    assert meters.medians() == {} and str(meters) == "grad_norm: inf (inf)"
