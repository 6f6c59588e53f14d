import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.sgd import sgd

from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.solver import WarmupCosineLR, WarmupMultiStepLR, make_lr_scheduler, make_optimizer
from fcos_core.solver import optimizer as optimizer_module
from fcos_core.solver.optimizer import SGD


def model():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    module[0].weight.requires_grad_(False)
    return module


def scheduler_of(**options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = WarmupCosineLR if "max_iter" in options else WarmupMultiStepLR
    return optimizer, schedule(optimizer, **options)


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


@pytest.mark.parametrize(
    ("key", "value", "option", "expected"),
    [
        ("SOLVER.WEIGHT_DECAY", 0.25, "weight_decay", [0.0, 0.25, 0.0]),
        ("SOLVER.WEIGHT_DECAY_BIAS", 0.5, "weight_decay", [0.5, 0.0005, 0.5]),
        ("SOLVER.MOMENTUM", 0.5, "momentum", [0.5] * 3),
        ("SOLVER.BASE_LR", 1.0, "lr", [2.0, 1.0, 2.0]),
        ("SOLVER.BIAS_LR_FACTOR", 4.0, "lr", [0.004, 0.001, 0.004]),
        ("SOLVER.GAMMA", 0.5, "lr", [0.002, 0.001, 0.002]),
    ],
)
def test_the_config_holds_when_a_training_resumes(key, value, option, expected):
    states = []
    for opts in ([], [key, value]):
        config = cfg.clone()
        config.merge_from_list(["SOLVER.WARMUP_ITERS", 0, *opts])
        module = model()
        optimizer = make_optimizer(config, module)
        scheduler = make_lr_scheduler(config, optimizer)
        for part, state in zip((optimizer, scheduler), states, strict=False):
            part.load_state_dict(state)
        scheduler.step()
        if not states:
            module(torch.ones(2, 3, 1, 1)).square().sum().backward()
            optimizer.step()
            states = [copy.deepcopy(optimizer.state_dict()), scheduler.state_dict()]
    assert [group[option] for group in optimizer.param_groups] == pytest.approx(expected)
    for number, state in states[0]["state"].items():
        assert torch.equal(optimizer.state_dict()["state"][number]["momentum_buffer"], state["momentum_buffer"])


def test_a_momentum_that_is_switched_off_is_forgotten():
    states = []
    for momentum in (0.9, 0.0, 0.9):
        module = model()
        optimizer = SGD(module[1].parameters(), lr=0.1, momentum=momentum)
        for state in states[-1:]:
            optimizer.load_state_dict(state)
        if not states:
            module(torch.ones(2, 3, 1, 1)).square().sum().backward()
            optimizer.step()
        states.append(copy.deepcopy(optimizer.state_dict()))
    assert all("momentum_buffer" in state for state in states[0]["state"].values())
    assert not any("momentum_buffer" in state for state in states[2]["state"].values())


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
@pytest.mark.parametrize("steps", [0, 1])
def test_the_state_of_another_optimizer_is_refused(kind, steps):
    parameter = nn.Parameter(torch.ones(2))
    other = kind([parameter], lr=0.1)
    for _ in range(steps):
        parameter.sum().backward()
        other.step()
    with pytest.raises(ValueError, match="it is of another kind of optimizer than SGD"):
        SGD([parameter], lr=0.1).load_state_dict(other.state_dict())


def test_the_momentum_of_another_parameter_is_refused():
    one, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(4))
    optimizer = SGD([one], lr=0.1, momentum=0.9)
    one.sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"the momentum of a parameter is \(1,\), not \(4,\)"):
        SGD([other], lr=0.1, momentum=0.9).load_state_dict(optimizer.state_dict())


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


@pytest.mark.parametrize("order", ["first", "last"])
def test_cosine_rates_by_iteration(order):
    # Linear warm-up from 1/2 at 0 to 1 at 2, then half a cosine over six parts: cos of 0, 30, 60, 90, 120, 150 degrees.
    found = rates(order, count=9, max_iter=7, warmup_factor=0.5, warmup_iters=2)
    cosines = [1, math.sqrt(3) / 2, 1 / 2, 0, -1 / 2, -math.sqrt(3) / 2, -1, -1]
    assert found == pytest.approx([0.1 * 0.75, *(0.05 * (1 + cosine) for cosine in cosines)], rel=1e-12, abs=1e-17)


def test_a_cosine_ends_where_the_warmup_is_as_long_as_the_training():
    assert rates("first", count=5, max_iter=4, warmup_iters=4, warmup_method="constant")[3:] == [0.1, 0]
    assert rates("first", count=3, max_iter=3, warmup_iters=9, warmup_method="constant") == [0.1 * (1 / 3)] * 3


def test_the_config_selects_the_cosine():
    config = cfg.clone()
    config.merge_from_list(["SOLVER.SCHEDULE", "cosine", "SOLVER.MAX_ITER", 59, "SOLVER.WARMUP_ITERS", 20])
    scheduler = make_lr_scheduler(config, make_optimizer(config, model()))
    seen = []
    for _ in range(40):
        scheduler.step()
        seen.append(scheduler.get_last_lr()[1])
    # BASE_LR 0.001; the middle of 20 to 60 is 40; a third of the rate before the warm-up, and 2/3 at its middle.
    assert [seen[9], seen[19], seen[39]] == pytest.approx([0.001 * 2 / 3, 0.001, 0.0005], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "fifth"),
    [({"milestones": (5,)}, 0.01), ({"max_iter": 6}, 0.05 * (1 + math.cos(math.pi / 2)))],
    ids=["steps", "cosine"],
)
def test_resumed_schedule_goes_on(options, fifth):
    options = {**options, "warmup_iters": 3, "warmup_method": "constant"}
    optimizer, scheduler = scheduler_of(**options)
    for _ in range(4):
        scheduler.step()
        optimizer.step()
    resumed_optimizer, resumed = scheduler_of(**options)
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    resumed.step()
    assert resumed_optimizer.param_groups[0]["lr"] == pytest.approx(fifth, rel=1e-12)


def test_a_cosine_that_resumes_with_more_iterations_takes_their_curve():
    _, scheduler = scheduler_of(max_iter=4, warmup_iters=0)
    for _ in range(4):
        scheduler.step()
    optimizer, longer = scheduler_of(max_iter=9, warmup_iters=0)
    longer.load_state_dict(scheduler.state_dict())
    longer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05, rel=1e-12)  # iteration 5 of 10 parts: half way


def test_a_schedule_that_starts_after_an_iteration():
    options = {"milestones": (5,), "warmup_iters": 3, "warmup_method": "constant"}
    optimizer, _ = scheduler_of(**options)
    # Iterations 1 to 4 are done; the last of them has the 0-based index 3. Iteration 5 has the lower rate.
    scheduler = WarmupMultiStepLR(optimizer, **options, last_epoch=3)
    assert scheduler.last_epoch == 4 and optimizer.param_groups[0]["lr"] == pytest.approx(0.1, rel=1e-12)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01, rel=1e-12)
    with pytest.raises(KeyError, match="initial_lr"):
        scheduler_of(**options, last_epoch=3)


def test_biases_have_their_own_rate_and_decay():
    config = cfg.clone()
    config.merge_from_list(["SOLVER.BASE_LR", 0.5, "SOLVER.WEIGHT_DECAY", 0.25])
    module = model()
    groups = make_optimizer(config, module).param_groups
    # The convolution's weight is frozen; the others come in the order of the model, one group each.
    assert [group["params"] for group in groups] == [[module[0].bias], [module[1].weight], [module[1].bias]]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1.0, 0.0), (0.5, 0.25), (1.0, 0.0)]
    assert all(group["momentum"] == 0.9 for group in groups)


def test_offsets_of_deformable_convolutions_have_a_factor_of_their_own():
    config = cfg.clone()
    config.merge_from_list(["SOLVER.BASE_LR", 0.5, "SOLVER.WEIGHT_DECAY", 0.25, "SOLVER.DCONV_OFFSETS_LR_FACTOR", 0.1])
    convolution = nn.ModuleDict({"offset": nn.Conv2d(2, 27, 3), "conv": nn.Conv2d(2, 2, 3)})
    groups = make_optimizer(config, nn.ModuleDict({"conv2": convolution})).param_groups
    # offset.weight, offset.bias, conv.weight, conv.bias: a bias has twice the learning rate and no decay.
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.1, 0.5, 1.0])
    assert [group["weight_decay"] for group in groups] == [0.25, 0.0, 0.25, 0.0]
    assert all(len(group["params"]) == 1 for group in groups)


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


# Options of `torch.optim.SGD` that a training state may bring, for any of its kernels.
OPTIONS = st.builds(
    lambda options, kernel: {**options, **kernel},
    st.fixed_dictionaries(
        {
            "lr": st.sampled_from([0.0, 0.1, 0.3]),
            "momentum": st.sampled_from([0.0, 0.9]),
            "weight_decay": st.sampled_from([0.0, 1e-4, 0.5]),
            "dampening": st.sampled_from([0, 0.25]),
            "nesterov": st.booleans(),
            "maximize": st.booleans(),
        }
    ),
    st.sampled_from([{}, {"foreach": False}, {"foreach": True}, {"fused": True}]),
)


def random_groups(options, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(size, 3) for size in sizes]
    values = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    return [{"params": [value], **option} for value, option in zip(values, options, strict=True)]


def take_steps(optimizer, absent, seed, count=3):
    """Take steps on random gradients; in the first step the groups `absent` have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(count):
        for number, group in enumerate(optimizer.param_groups):
            (parameter,) = group["params"]
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = None if step == 0 and number in absent else gradient
            group["lr"] *= 0.5
        optimizer.step()


def assert_equal_states(one, other):
    states = one.state_dict(), other.state_dict()
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for key, state in states[0]["state"].items():
        pair = state["momentum_buffer"], states[1]["state"][key]["momentum_buffer"]
        assert pair == (None, None) or torch.equal(*pair)
    for groups in zip(one.param_groups, other.param_groups, strict=True):
        assert torch.equal(groups[0]["params"][0], groups[1]["params"][0])


@given(options=st.lists(OPTIONS, min_size=1, max_size=6), absent=st.sets(st.integers(0, 5)), seed=st.integers(0, 99))
def test_steps_of_all_groups_together_are_those_of_each(options, absent, seed):
    sizes = [1 + (seed + number) % 4 for number in range(len(options))]
    ours = SGD(random_groups(options, sizes, seed), lr=1.0)
    torchs = torch.optim.SGD(random_groups(options, sizes, seed), lr=1.0)
    for optimizer in (ours, torchs):
        take_steps(optimizer, absent, seed + 1)
    assert_equal_states(ours, torchs)
    # Each continues from the state of the other.
    states = [copy.deepcopy(optimizer.state_dict()) for optimizer in (torchs, ours)]
    for optimizer, state in zip((ours, torchs), states, strict=True):
        optimizer.load_state_dict(state)
        take_steps(optimizer, (), seed + 2)
    assert_equal_states(ours, torchs)


def test_groups_of_equal_options_take_one_step(monkeypatch):
    module = nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(5)])
    optimizer = make_optimizer(cfg, module)
    groups, numbers = optimizer.param_groups, []

    def counted(parameters, *args, **options):
        assert optimizer.param_groups is groups
        numbers.append(len(parameters))
        return sgd(parameters, *args, **options)

    monkeypatch.setattr(optimizer_module, "sgd", counted)
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimizer.step()
    assert optimizer.param_groups is groups and len(groups) == 10
    assert numbers == [5, 5]


def test_hooks_run_once_around_a_step():
    module, seen = model(), []
    optimizer = make_optimizer(cfg, module)
    optimizer.register_step_pre_hook(lambda *_: seen.append(module[1].bias.sum().item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(module[1].bias.sum().item()))
    module(torch.ones(2, 3, 1, 1)).sum().backward()
    optimizer.step()
    assert len(seen) == 2 and seen[0] == 0 > seen[1]


def test_momentum_lies_in_memory_as_its_parameter_does():
    first = nn.Conv2d(4, 4, 3)
    optimizer = SGD(first.parameters(), lr=0.1, momentum=0.9)
    first(torch.randn(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    second = copy.deepcopy(first).to(memory_format=torch.channels_last)
    resumed = SGD(second.parameters(), lr=0.1, momentum=0.9)
    resumed.load_state_dict(optimizer.state_dict())
    buffers = [o.state[p.weight]["momentum_buffer"] for o, p in ((optimizer, first), (resumed, second))]
    assert torch.equal(*buffers)
    assert buffers[1].stride() == second.weight.stride() != buffers[0].stride()


def test_a_gradient_scaler_leaves_out_a_step_that_overflows():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = SGD([parameter], lr=0.5, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, expected in ((float("inf"), 1.0), (1.0, 0.5)):
        optimizer.zero_grad()
        scaler.scale((parameter * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert parameter.tolist() == [expected] * 2


def test_a_closure_computes_the_gradients_of_the_step():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = SGD([parameter], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = parameter.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert parameter.tolist() == [0.5, 0.5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_one_kernel_on_a_gpu_computes_the_same():
    # In step 1 the gradients of the convolutions have another memory layout than the convolutions.
    shapes, options = [(8, 4, 3, 3), (8, 4, 1, 1), (8,)], {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    values = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    found = []
    for kind, device in ((SGD, "cuda"), (torch.optim.SGD, "cpu")):
        parameters = [nn.Parameter(value.to(device, copy=True)) for value in values]
        optimizer = kind([{"params": [parameter], **options} for parameter in parameters], lr=1.0)
        for step in range(3):
            for parameter, value in zip(parameters, values, strict=True):
                gradient = (value * (step + 1)).to(device)
                if step == 1 and gradient.ndim == 4:
                    gradient = gradient.contiguous(memory_format=torch.channels_last)
                parameter.grad = gradient
            optimizer.step()
        found.append([parameter.detach().cpu() for parameter in parameters])
    torch.testing.assert_close(*found)
