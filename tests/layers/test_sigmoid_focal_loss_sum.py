"""The focal loss summed with its gradient in one pass: kernels against the definition, and what backward does."""

import math

import pytest
import torch
from compiled_kernels import require_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fcos_core.layers.sigmoid_focal_loss import (
    SigmoidFocalLoss,
    sigmoid_focal_loss,
    sigmoid_focal_loss_sum,
    sigmoid_focal_loss_sum_reference,
)

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
OPERATOR = torch.ops.fcos_core.sigmoid_focal_loss_sum


def random_inputs(rows, columns, dtype=torch.float64, seed=0, device="cpu"):
    """Logits (rows, columns), targets (rows,) and a scale."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 4
    targets = torch.randint(-1, columns + 2, (rows,), generator=generator)
    scale = torch.tensor(0.3, dtype=torch.promote_types(dtype, torch.float32))
    return logits.to(device, dtype), targets.to(device), scale.to(device)


def cases():
    logits, targets, _ = random_inputs(50, 7)
    extreme = torch.tensor([[-100.0, 100.0, 0.0], [1e4, -1e4, -0.0]]).repeat(5, 1)
    return {
        "random": (logits, targets),
        "float32": (logits.float(), targets),
        "bfloat16": (logits.bfloat16(), targets),
        "float16": (logits.half(), targets),
        "int32 targets": (logits, targets.int()),
        "rows that share vectors": random_inputs(1000, 3, torch.bfloat16, seed=1)[:2],
        "rows of whole vectors": random_inputs(300, 80, torch.float32, seed=2)[:2],
        "a row longer than a block": random_inputs(3, 9001, torch.float32, seed=3)[:2],
        "one column": random_inputs(9000, 1, torch.float32, seed=4)[:2],
        "extreme": (extreme, torch.tensor([0, 1, 2, 3, -1, -7, 4, 2, 1, 2**40])),
        "not a number, ignored": (torch.full((4, 5), torch.nan), torch.full((4,), -1)),
        "all background": (logits, torch.zeros_like(targets)),
        "no rows": (logits[:0], targets[:0]),
        "no columns": (logits[:, :0], targets * 0),
        "strided": (random_inputs(7, 50, seed=5)[0].t(), targets.repeat_interleave(2)[::2]),
        "within other memory": (random_inputs(51, 3, torch.float32, seed=6)[0][1:], targets),
    }


CASES = cases()


def scale_of(logits):
    return torch.tensor(0.3, dtype=torch.promote_types(logits.dtype, torch.float32), device=logits.device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 1.0), (1.5, 0.0)])
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_definition(case, gamma, alpha, device):
    require_kernel("sigmoid_focal_loss_sum", device)
    logits, targets = (tensor.to(device) for tensor in CASES[case])
    scale = scale_of(logits)
    loss, gradient = OPERATOR(logits, targets, scale, gamma, alpha, True)
    expected, expected_gradient = sigmoid_focal_loss_sum_reference(logits, targets, scale, gamma, alpha, True)
    assert torch.isfinite(gradient).all()
    # a handful of roundings in float32 (steps of 1.2e-7) or float64 (2.2e-16), and one in a half type
    rtol = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 2e-5, torch.float64: 1e-12}[logits.dtype]
    torch.testing.assert_close(loss, expected, rtol=min(rtol, 1e-5), atol=1e-14)
    atol = {torch.float16: 2**-24, torch.float64: 1e-14}.get(logits.dtype, 1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=rtol, atol=atol)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=60)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_any_logits_and_targets_give_the_loss_of_the_definition(device, data, dtype):
    require_kernel("sigmoid_focal_loss_sum", device)
    rows, columns = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 9))
    numbers = st.floats(-200, 200, width=32)
    logits = data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    targets = data.draw(st.lists(st.integers(-2, columns + 1), min_size=rows, max_size=rows))
    logits = torch.tensor(logits, dtype=dtype, device=device).reshape(rows, columns)
    targets = torch.tensor(targets, dtype=torch.int64, device=device)
    loss, gradient = OPERATOR(logits, targets, scale_of(logits), 2.0, 0.25, True)
    expected, expected_gradient = sigmoid_focal_loss_sum_reference(
        logits.double(), targets, scale_of(logits.double()), 2.0, 0.25, True
    )
    rtol = 2e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=1e-12)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_sums_are_the_elementwise_loss_added_up(device):
    logits, targets, scale = random_inputs(400, 5, device=device)
    whole = sigmoid_focal_loss_sum(logits, targets, scale, 2.0, 0.25)
    expected = sigmoid_focal_loss(logits, targets, 2.0, 0.25).sum() * scale
    torch.testing.assert_close(whole, expected, rtol=1e-12, atol=0)
    parts = [
        sigmoid_focal_loss_sum(part, labels, scale, 2.0, 0.25)
        for part, labels in zip(logits.split(150), targets.split(150), strict=True)
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradcheck(gamma, device):
    logits, targets, scale = random_inputs(8, 4, device=device)
    function = SigmoidFocalLoss(gamma, 0.25)
    assert torch.autograd.gradcheck(lambda x: function(x, targets, scale) * 3, logits.requires_grad_())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 1.0), (1.5, 0.0)])
@pytest.mark.parametrize("case", ["random", "int32 targets", "extreme", "all background", "no rows", "strided"])
def test_gradient_of_the_definition_equals_autograd(case, gamma, alpha, device):
    logits, targets = (tensor.to(device) for tensor in CASES[case])
    logits = logits.double().clone().requires_grad_()
    loss = sigmoid_focal_loss(logits, targets, gamma, alpha).sum() * 0.3
    loss.backward()
    found = sigmoid_focal_loss_sum_reference(logits.detach(), targets, scale_of(logits), gamma, alpha, True)
    torch.testing.assert_close(found, (loss.detach(), logits.grad), rtol=1e-12, atol=1e-14)


class Made(TorchDispatchMode):
    """The sizes of the tensors that operators make, views left out."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not operator.is_view:
            self.sizes.append(made.numel())
        return made


@pytest.mark.parametrize("device", DEVICES)
def test_backward_makes_nothing_as_large_as_the_logits(device):
    logits, targets, scale = random_inputs(100, 7, device=device)
    loss = sigmoid_focal_loss_sum(logits.requires_grad_(), targets, scale, 2.0, 0.25)
    with Made() as made:
        loss.backward()
    # The gradient was made with the loss; what is made here is the 1 that backward begins with.
    assert made.sizes == [1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_retained_graph_gives_its_gradient_again(dtype, device):
    logits, targets, scale = random_inputs(30, 4, dtype, device=device)
    logits.requires_grad_()
    loss = sigmoid_focal_loss_sum(logits, targets, scale, 2.0, 0.25)
    (halved,) = torch.autograd.grad(loss * 0.5, logits, retain_graph=True)
    before = halved.clone()
    (nothing,) = torch.autograd.grad(loss * 0, logits, retain_graph=True)
    (plain,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (doubled,) = torch.autograd.grad(loss * 2, logits)
    assert nothing.abs().sum() == 0
    assert halved.equal(before)
    # by powers of two, nothing is rounded but float16's smallest numbers
    torch.testing.assert_close(halved, plain / 2, rtol=0, atol=2**-24 if dtype == torch.float16 else 0)
    torch.testing.assert_close(doubled, plain * 2, rtol=0, atol=2**-24 if dtype == torch.float16 else 0)


@pytest.mark.parametrize("device", DEVICES)
def test_float16_gradients_are_scaled_before_they_are_rounded(device):
    # At logit -9 and a scale of 1e-3 a negative's gradient is 0.75e-3 * p^2 * (p + 2 * (1 - p) * -ln(1 - p)), 4e-15
    # with p = 1.2e-4; float16 begins at 6e-8. Under a loss scale of 2^32 it is 1.8e-5.
    logits = torch.full((10, 3), -9.0, dtype=torch.float16, device=device, requires_grad=True)
    targets = torch.zeros(10, dtype=torch.int64, device=device)
    scale = torch.tensor(1e-3, device=device)
    (sigmoid_focal_loss_sum(logits, targets, scale, 2.0, 0.25) * 2.0**32).backward()
    p = 1 / (1 + math.exp(9))
    expected = 2.0**32 * 0.75e-3 * p**2 * (p + 2 * (1 - p) * -math.log1p(-p))
    assert logits.grad.dtype == torch.float16
    assert logits.grad[4, 1].item() == pytest.approx(expected, rel=2**-8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", [torch.no_grad, torch.inference_mode])
def test_without_gradients_none_is_written(function, device):
    logits, targets, scale = random_inputs(30, 4, device=device)
    logits.requires_grad_()
    expected = sigmoid_focal_loss_sum(logits, targets, scale, 2.0, 0.25)
    with function():
        loss = sigmoid_focal_loss_sum(logits, targets, scale, 2.0, 0.25)
    assert expected.requires_grad and not loss.requires_grad
    assert loss == expected
    assert OPERATOR(logits.detach(), targets, scale, 2.0, 0.25, False)[1].shape == (0,)


@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_not_asked_for_is_computed_when_it_is_needed(device):
    logits, targets, scale = random_inputs(30, 4, device=device)
    gradients = []
    for with_grad in (True, False):
        leaf = logits.clone().requires_grad_()
        (OPERATOR(leaf, targets, scale, 2.0, 0.25, with_grad)[0] * 3).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-14, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_differentiating_twice_is_refused(dtype, device):
    logits, targets, scale = random_inputs(30, 4, dtype, device=device)
    logits.requires_grad_()
    loss = sigmoid_focal_loss_sum(logits, targets, scale, 2.0, 0.25)
    with pytest.raises(RuntimeError, match=r"can be differentiated once.* sigmoid_focal_loss has one"):
        torch.autograd.grad(loss, logits, create_graph=True)
    loss = sigmoid_focal_loss(logits, targets, 2.0, 0.25).sum()
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), logits)[0].abs().sum() > 0


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_bits_in_every_run(device):
    logits, targets, scale = random_inputs(3000, 80, torch.float32, device=device)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3, 2):  # has no effect on CUDA
            torch.set_num_threads(number)
            results.append(OPERATOR(logits, targets, scale, 2.0, 0.25, True))
    finally:
        torch.set_num_threads(threads)
    for loss, gradient in results[1:]:
        assert loss.equal(results[0][0])
        assert gradient.equal(results[0][1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, -0.75, 0.0])
@pytest.mark.parametrize("size", [0, 3, 5003])
def test_scale_gradient(size, factor, dtype, device):
    gradient = torch.arange(size, device=device).to(dtype)
    expected = (gradient.double() * factor).to(dtype)
    factor = torch.tensor(factor, dtype=torch.promote_types(dtype, torch.float32), device=device)
    torch.ops.fcos_core.scale_gradient_(gradient, factor)
    assert gradient.equal(expected)


LOGITS, TARGETS, SCALE = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.tensor(1.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("logits", "targets", "scale", "message"),
    [
        (torch.zeros(3), TARGETS, SCALE, r"logits must have shape \(N, C\), they have \[3\]"),
        (LOGITS, TARGETS[:2], SCALE, r"targets must have shape \(3,\), one per row of logits, they have \[2\]"),
        (LOGITS, TARGETS, torch.ones(1), "scale must be a scalar tensor of .*, it is"),
    ],
)
def test_wrong_input_is_named(logits, targets, scale, message, device):
    arguments = (logits.to(device), targets.to(device), scale.to(device), 2.0, 0.25)
    with pytest.raises(RuntimeError, match=message):
        sigmoid_focal_loss_sum(*arguments)
    with pytest.raises(RuntimeError, match=message):
        sigmoid_focal_loss_sum_reference(*arguments, True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("logits", "targets", "scale"),
    [(torch.zeros(3), TARGETS, SCALE), (LOGITS, TARGETS[:2], SCALE), (LOGITS, TARGETS, torch.ones(0))],
)
def test_kernel_refuses_sizes_that_would_be_read_out_of_bounds(logits, targets, scale, device):
    require_kernel("sigmoid_focal_loss_sum", device)
    with pytest.raises(RuntimeError, match="do not fit together"):
        OPERATOR(logits.to(device), targets.to(device), scale.to(device), 2.0, 0.25, True)


@pytest.mark.parametrize("device", DEVICES)
def test_scale_takes_the_dtype_of_the_loss(device):
    logits, targets, scale = LOGITS.double().to(device), TARGETS.to(device), SCALE.to(device)
    assert sigmoid_focal_loss_sum(logits, targets, scale, 2.0, 0.25).dtype == torch.float64
    with pytest.raises(RuntimeError, match=r"scale must be a scalar tensor of .*, it is"):
        sigmoid_focal_loss_sum_reference(logits, targets, scale, 2.0, 0.25, True)
    require_kernel("sigmoid_focal_loss_sum", device)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        OPERATOR(logits, targets, scale, 2.0, 0.25, True)


def test_a_scale_that_requires_a_gradient_is_refused():
    with pytest.raises(RuntimeError, match="scale must not require a gradient"):
        sigmoid_focal_loss_sum(LOGITS.clone().requires_grad_(), TARGETS, SCALE.clone().requires_grad_(), 2.0, 0.25)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("case", ["random", "bfloat16", "int32 targets", "no rows", "strided"])
def test_opcheck(case, with_grad, device):
    logits, targets = (tensor.to(device) for tensor in CASES[case])
    logits = logits.clone().requires_grad_()
    torch.library.opcheck(OPERATOR.default, (logits, targets, scale_of(logits), 2.0, 0.25, with_grad))


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_scale_gradient(device):
    gradient = torch.randn(7, 5, device=device)
    torch.library.opcheck(torch.ops.fcos_core.scale_gradient_.default, (gradient, torch.tensor(0.5, device=device)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_compile_forward_and_backward(dtype, device):
    module = SigmoidFocalLoss(gamma=2.0, alpha=0.25)
    results = []
    for function in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        logits, targets, scale = random_inputs(30, 4, dtype, device=device)
        logits.requires_grad_()
        loss = function(logits * 2, targets, scale)
        (loss * 3).backward(retain_graph=True)
        first = logits.grad.clone()
        loss.backward()
        results.append((loss.detach(), first, logits.grad))
    rtol, atol = (2**-9, 2**-20) if dtype == torch.float16 else (1e-12, 1e-14)
    torch.testing.assert_close(results[1], results[0], rtol=rtol, atol=atol)
