import pytest
import torch
from torch import nn

from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.solver import WarmupMultiStepLR, make_lr_scheduler, make_optimizer


def model():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    module[0].weight.requires_grad_(False)
    return module


def scheduler_of(**options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    return optimizer, WarmupMultiStepLR(optimizer, **options)


def rates(order, count=8, **options):
    optimizer, scheduler = scheduler_of(**options)
    seen = []
    for _ in range(count):
        if order == "first":
            scheduler.step()
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if order == "last":
            scheduler.step()
    return seen


@pytest.mark.parametrize("order", ["first", "last"])
def test_rates_by_iteration(order):
    # Constant warm-up: a third while the iteration is below 3; a tenth from 5 on, a hundredth from 7 on.
    found = rates(order, milestones=(5, 7), warmup_iters=3, warmup_method="constant")
    expected = [0.1 / 3] * 2 + [0.1] * 2 + [0.01] * 2 + [0.001] * 2
    assert found == pytest.approx(expected, rel=1e-12)


def test_linear_warmup():
    # From 1/3 at 0 to 1 at 4, in steps of 1/6.
    found = rates("first", count=5, milestones=(), warmup_iters=4, warmup_method="linear")
    assert found == pytest.approx([0.1 * f for f in (1 / 2, 2 / 3, 5 / 6, 1, 1)], rel=1e-12)


def test_resumed_schedule_goes_on():
    options = {"milestones": (5,), "warmup_iters": 3, "warmup_method": "constant"}
    optimizer, scheduler = scheduler_of(**options)
    for _ in range(4):
        scheduler.step()
        optimizer.step()
    resumed_optimizer, resumed = scheduler_of(**options)
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    resumed.step()
    assert resumed_optimizer.param_groups[0]["lr"] == pytest.approx(0.01, rel=1e-12)


def test_biases_have_their_own_rate_and_decay():
    config = cfg.clone()
    config.merge_from_list(["SOLVER.BASE_LR", 0.5, "SOLVER.WEIGHT_DECAY", 0.25])
    module = model()
    groups = make_optimizer(config, module).param_groups
    # The convolution's weight is frozen; the others come in the order of the model, one group each.
    assert [group["params"] for group in groups] == [[module[0].bias], [module[1].weight], [module[1].bias]]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1.0, 0.0), (0.5, 0.25), (1.0, 0.0)]
    assert all(group["momentum"] == 0.9 for group in groups)


@pytest.mark.parametrize(
    "opts",
    [
        ["SOLVER.WARMUP_METHOD", "cosine"],
        ["SOLVER.STEPS", "(20, 10)"],
        ["SOLVER.STEPS", ("a",)],
        ["SOLVER.BASE_LR", -0.1],
    ],
    ids=["method", "milestones", "words", "negative"],
)
def test_bad_schedules_are_refused(opts):
    config = cfg.clone()
    config.merge_from_list(opts)
    with pytest.raises(InputError, match="SOLVER"):
        make_lr_scheduler(config, make_optimizer(config, model()))
