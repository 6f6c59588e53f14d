"""The sigmoid focal loss in plain PyTorch and as an operator, against numbers by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from fcos_core.layers.sigmoid_focal_loss import SigmoidFocalLoss, sigmoid_focal_loss

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


def summed(logits, targets, gamma, alpha):
    return sigmoid_focal_loss(logits, targets, gamma, alpha).sum()


def by_operator(logits, targets, gamma, alpha):
    return SigmoidFocalLoss(gamma, alpha)(logits, targets)


IMPLEMENTATIONS = {"operator": by_operator, "definition": summed}


def random_inputs(rows, columns, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 4
    return logits.to(dtype), torch.randint(-1, columns + 1, (rows,), generator=generator)


# gamma 2, alpha 0.25. At logit 0, p = 1/2: positive 0.25 * (1/2)^2 * ln 2, negative 0.75 * (1/2)^2 * ln 2, with
# slopes -0.25 * (1/4) * (1/2 + 2 * 1/2 * ln 2) and 0.75 * (1/4) * (1/2 + 2 * 1/2 * ln 2).
# At -100 the positive is all wrong: 0.25 * 1 * 100, slope -0.25. At 100 the negative: 0.75 * 100, slope 0.75.
# Right answers at +-100 cost e^-200 * e^-100 and less, which is 0. A negative label silences its row.
LN2 = math.log(2)
SLOPE = 0.25 * (0.5 + LN2)
BY_HAND = [
    ([0.0, 0.0], 1, [0.0625 * LN2, 0.1875 * LN2], [-0.25 * SLOPE, 0.75 * SLOPE]),
    ([-100.0, 100.0], 1, [25.0, 75.0], [-0.25, 0.75]),
    ([-100.0, 100.0], 2, [0.0, 0.0], [0.0, 0.0]),
    ([100.0, -100.0], -1, [0.0, 0.0], [0.0, 0.0]),
]


@pytest.mark.parametrize("device", DEVICES)
def test_elements_by_hand(device):
    logits, targets, losses, _ = zip(*BY_HAND, strict=True)
    found = sigmoid_focal_loss(torch.tensor(logits, device=device), torch.tensor(targets, device=device), 2.0, 0.25)
    torch.testing.assert_close(found, torch.tensor(losses, device=device), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("rows", [BY_HAND, *([row] for row in BY_HAND)], ids=["all", "0", "1", "2", "3"])
def test_sums_and_gradients_by_hand(rows, implementation, device):
    logits, targets, losses, gradients = zip(*rows, strict=True)
    logits = torch.tensor(logits, device=device, requires_grad=True)
    loss = IMPLEMENTATIONS[implementation](logits, torch.tensor(targets, device=device), 2.0, 0.25)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(losses, device=device).sum(), rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(logits.grad, torch.tensor(gradients, device=device), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gamma_0_is_weighted_cross_entropy(implementation, device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(60, 5, seed=5))
    targets = targets.clamp(min=0)
    one_hot = F.one_hot(targets, 6)[:, 1:].double()
    results = []
    for function in (
        lambda x: 0.5 * F.binary_cross_entropy_with_logits(x, one_hot, reduction="sum"),
        lambda x: IMPLEMENTATIONS[implementation](x, targets, 0.0, 0.5),
    ):
        leaf = logits.clone().requires_grad_()
        loss = function(leaf)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradcheck(gamma, device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(8, 4, seed=6))
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, targets, gamma, 0.25), logits.requires_grad_())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "step"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_half_types_are_rounded_once(dtype, step, implementation, device):
    logits, targets = random_inputs(200, 7, dtype, seed=8)
    logits, targets = logits.to(device), targets.to(device)
    wide = logits.double().requires_grad_()
    expected = sigmoid_focal_loss(wide, targets, 2.0, 0.25)
    expected.sum().backward()
    logits.requires_grad_()
    IMPLEMENTATIONS[implementation](logits, targets, 2.0, 0.25).backward()
    losses = sigmoid_focal_loss(logits, targets, 2.0, 0.25)
    assert losses.dtype == logits.grad.dtype == dtype
    # one rounding is half a step; 0.6 leaves room for float32 inside. 2^-24 is float16's smallest number.
    torch.testing.assert_close(losses.double(), expected, rtol=0.6 * step, atol=0.6 * 2**-24)
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=0.6 * step, atol=0.6 * 2**-24)


@pytest.mark.parametrize("device", DEVICES)
def test_module_sums(device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(30, 4, seed=10))
    loss = SigmoidFocalLoss(gamma=2.0, alpha=0.25)(logits, targets)
    assert loss.shape == ()
    torch.testing.assert_close(loss, summed(logits, targets, 2.0, 0.25), rtol=1e-12, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_module_sums_half_logits_without_bias(dtype, device):
    # The state at the start of training: every class at probability 0.01, every location background. One element's
    # loss is 7.5e-7, 12.6 of float16's smallest steps; rounded to 13 each, the sum would be 3 % too large.
    logits = torch.full((500, 80), -math.log(99), dtype=dtype, device=device, requires_grad=True)
    targets = torch.zeros(500, dtype=torch.int64, device=device)
    loss = SigmoidFocalLoss(gamma=2.0, alpha=0.25)(logits, targets)
    loss.backward()
    p = 1 / (1 + math.exp(-logits[0, 0].item()))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(40_000 * 0.75 * p**2 * -math.log1p(-p), rel=1e-4)
    slope = 0.75 * p**2 * (p + 2 * (1 - p) * -math.log1p(-p))
    # the gradient goes back to the half type of the logits: half a step of it, or of float16's smallest numbers
    assert logits.grad[3, 5].item() == pytest.approx(slope, rel=2**-8, abs=2**-25)


LOGITS, TARGETS = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("logits", "targets", "gamma", "alpha", "message"),
    [
        (torch.zeros(3), TARGETS, 2.0, 0.25, r"logits must have shape \(N, C\), they have \[3\]"),
        (LOGITS.long(), TARGETS, 2.0, 0.25, "logits must be floating point"),
        (LOGITS, TARGETS[:2], 2.0, 0.25, r"targets must have shape \(3,\), one per row of logits, they have \[2\]"),
        (LOGITS, torch.zeros(3), 2.0, 0.25, "targets must be int32 or int64"),
        (LOGITS, TARGETS, -1.0, 0.25, "gamma must be 0 or greater, it is -1"),
        (LOGITS, TARGETS, 2.0, 1.5, r"alpha must lie in \[0, 1\], it is 1.5"),
    ],
)
def test_wrong_input_is_named(logits, targets, gamma, alpha, message, implementation, device):
    with pytest.raises(RuntimeError, match=message):
        IMPLEMENTATIONS[implementation](logits.to(device), targets.to(device), gamma, alpha)


@pytest.mark.parametrize("device", DEVICES)
def test_compile_forward_and_backward(device):
    module = SigmoidFocalLoss(gamma=2.0, alpha=0.25)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for function in (module, compiled):
        logits, targets = (tensor.to(device) for tensor in random_inputs(30, 4, seed=11))
        logits.requires_grad_()
        loss = function(logits * 2, targets)
        loss.backward()
        results.append((loss.detach(), logits.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
def test_export(device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(30, 4, seed=12))
    module = SigmoidFocalLoss(gamma=2.0, alpha=0.25)
    program = torch.export.export(module, (logits, targets))
    assert "fcos_core.sigmoid_focal_loss_sum" in str(program.graph)
    torch.testing.assert_close(program.module()(logits, targets), module(logits, targets), rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_export_of_any_number_of_rows(device):
    module = SigmoidFocalLoss(gamma=2.0, alpha=0.25)
    rows = torch.export.Dim("rows", min=2)
    inputs = [tensor.to(device) for tensor in random_inputs(30, 4, seed=13)]
    program = torch.export.export(module, tuple(inputs), dynamic_shapes=({0: rows}, {0: rows}))
    logits, targets = (tensor.to(device) for tensor in random_inputs(77, 4, seed=14))
    torch.testing.assert_close(program.module()(logits, targets), module(logits, targets), rtol=0, atol=0)
