"""The sigmoid focal loss: compiled kernels against the pure PyTorch definition, and both against numbers by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from compiled_kernels import require_kernel

from fcos_core.layers._reference import sigmoid_focal_loss_backward_reference
from fcos_core.layers.sigmoid_focal_loss import SigmoidFocalLoss, sigmoid_focal_loss, sigmoid_focal_loss_reference

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
IMPLEMENTATIONS = {"operator": sigmoid_focal_loss, "definition": sigmoid_focal_loss_reference}


def random_inputs(rows, columns, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 4
    return logits.to(dtype), torch.randint(-1, columns + 1, (rows,), generator=generator)


def cases():
    logits, targets = random_inputs(50, 7)
    extreme = torch.tensor([[-100.0, 100.0, 0.0], [1e4, -1e4, -0.0]]).repeat(5, 1)
    return {
        "random": (logits, targets),
        "float32": (logits.float(), targets),
        "int32 targets": (logits, targets.int()),
        "more than one task": random_inputs(3000, 5, seed=1),
        "more columns than a task": random_inputs(2, 5000, seed=2),
        "one column": random_inputs(40, 1, seed=3),
        "extreme": (extreme, torch.tensor([0, 1, 2, 3, -1, -7, 4, 2, 1, 0])),
        "all ignored": (logits, torch.full_like(targets, -1)),
        "all background": (logits, torch.zeros_like(targets)),
        "no rows": (logits[:0], targets[:0]),
        "no columns": (logits[:, :0], targets * 0),
        "strided": (random_inputs(7, 50, seed=4)[0].t(), targets.repeat_interleave(2)[::2]),
    }


CASES = cases()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 1.0), (1.5, 0.0)])
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_definition(case, gamma, alpha, device):
    require_kernel("sigmoid_focal_loss", device)
    logits, targets = (tensor.to(device) for tensor in CASES[case])
    upstream = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype, device=device).reshape(logits.shape)

    compiled_logits = logits.clone().requires_grad_()
    losses = sigmoid_focal_loss(compiled_logits, targets, gamma, alpha)
    losses.backward(upstream)
    plain_logits = logits.clone().requires_grad_()
    expected = sigmoid_focal_loss_reference(plain_logits, targets, gamma, alpha)
    expected.backward(upstream)

    # both round a handful of times in the dtype of logits; float32 steps are 1.2e-7, float64 steps 2.2e-16
    rtol, atol = (2e-5, 1e-7) if logits.dtype == torch.float32 else (1e-12, 1e-14)
    torch.testing.assert_close(losses, expected, rtol=rtol, atol=atol)
    torch.testing.assert_close(compiled_logits.grad, plain_logits.grad, rtol=rtol, atol=atol)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(compiled_logits.grad).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_numbers_by_hand(implementation, device):
    # gamma 2, alpha 0.25. At logit 0, p = 1/2: positive 0.25 * (1/2)^2 * ln 2, negative 0.75 * (1/2)^2 * ln 2, with
    # slopes -0.25 * (1/4) * (1/2 + 2 * 1/2 * ln 2) and 0.75 * (1/4) * (1/2 + 2 * 1/2 * ln 2).
    # At -100 the positive is all wrong: 0.25 * 1 * 100, slope -0.25. At 100 the negative: 0.75 * 100, slope 0.75.
    # Right answers at +-100 cost e^-200 * e^-100 and less, which is 0. A negative label silences its row.
    logits = torch.tensor([[0.0, 0.0], [-100.0, 100.0], [-100.0, 100.0], [100.0, -100.0]], device=device)
    logits.requires_grad_()
    targets = torch.tensor([1, 1, 2, -1], device=device)
    losses = IMPLEMENTATIONS[implementation](logits, targets, 2.0, 0.25)
    losses.sum().backward()
    ln2 = math.log(2)
    slope = 0.25 * (0.5 + ln2)
    expected = torch.tensor([[0.0625 * ln2, 0.1875 * ln2], [25, 75], [0, 0], [0, 0]], device=device)
    expected_grad = torch.tensor([[-0.25 * slope, 0.75 * slope], [-0.25, 0.75], [0, 0], [0, 0]], device=device)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(logits.grad, expected_grad, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gamma_0_is_weighted_cross_entropy(implementation, device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(60, 5, seed=5))
    targets = targets.clamp(min=0)
    one_hot = F.one_hot(targets, 6)[:, 1:].double()
    expected = 0.5 * F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    losses = IMPLEMENTATIONS[implementation](logits, targets, 0.0, 0.5)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradcheck(gamma, implementation, device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(8, 4, seed=6))
    function = IMPLEMENTATIONS[implementation]
    assert torch.autograd.gradcheck(lambda x: function(x, targets, gamma, 0.25), logits.requires_grad_())


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_definition_equals_autograd(device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(50, 7, seed=7))
    upstream = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype, device=device).reshape(logits.shape)
    logits.requires_grad_()
    sigmoid_focal_loss_reference(logits, targets, 2.0, 0.25).backward(upstream)
    gradient = sigmoid_focal_loss_backward_reference(upstream, logits.detach(), targets, 2.0, 0.25)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "step"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_half_types_are_rounded_once(dtype, step, implementation, device):
    logits, targets = random_inputs(200, 7, dtype, seed=8)
    logits, targets = logits.to(device), targets.to(device)
    wide = logits.double().requires_grad_()
    expected = sigmoid_focal_loss_reference(wide, targets, 2.0, 0.25)
    expected.sum().backward()
    logits.requires_grad_()
    losses = IMPLEMENTATIONS[implementation](logits, targets, 2.0, 0.25)
    losses.sum().backward()
    assert losses.dtype == logits.grad.dtype == dtype
    # one rounding is half a step; 0.6 leaves room for float32 inside. 2^-24 is float16's smallest number.
    torch.testing.assert_close(losses.double(), expected, rtol=0.6 * step, atol=0.6 * 2**-24)
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=0.6 * step, atol=0.6 * 2**-24)


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_reads_any_strides(device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(20, 6, seed=9))
    grad = torch.linspace(-1, 1, 240, dtype=torch.float64, device=device).reshape(12, 20).t()[:, ::2]
    views = {"transposed and sliced": grad, "one row": grad[:1].expand(20, 6), "one number": grad[:1, :1].expand(20, 6)}
    for name, view in views.items():
        assert not view.is_contiguous()
        gradient = torch.ops.fcos_core.sigmoid_focal_loss_backward(view, logits, targets, 2.0, 0.25)
        expected = sigmoid_focal_loss_backward_reference(view.contiguous(), logits, targets, 2.0, 0.25)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("device", DEVICES)
def test_module_sums(device):
    logits, targets = (tensor.to(device) for tensor in random_inputs(30, 4, seed=10))
    loss = SigmoidFocalLoss(gamma=2.0, alpha=0.25)(logits, targets)
    assert loss.shape == ()
    expected = sigmoid_focal_loss_reference(logits, targets, 2.0, 0.25).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


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
@pytest.mark.parametrize(
    "backward", [torch.ops.fcos_core.sigmoid_focal_loss_backward, sigmoid_focal_loss_backward_reference]
)
@pytest.mark.parametrize("grad", [torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.float64)])
def test_wrong_gradient_is_named(grad, backward, device):
    with pytest.raises(RuntimeError, match="grad must have the shape, dtype and device of logits"):
        backward(grad.to(device), LOGITS.to(device), TARGETS.to(device), 2.0, 0.25)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["random", "float32", "int32 targets", "no rows", "strided"])
def test_opcheck(case, device):
    logits, targets = (tensor.to(device) for tensor in CASES[case])
    operators = torch.ops.fcos_core
    torch.library.opcheck(
        operators.sigmoid_focal_loss_backward.default, (torch.ones_like(logits), logits, targets, 2.0, 0.25)
    )
    logits = logits.clone().requires_grad_()
    torch.library.opcheck(operators.sigmoid_focal_loss.default, (logits, targets, 2.0, 0.25))


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
    assert "fcos_core.sigmoid_focal_loss" in str(program.graph)
    torch.testing.assert_close(program.module()(logits, targets), module(logits, targets), rtol=0, atol=0)
