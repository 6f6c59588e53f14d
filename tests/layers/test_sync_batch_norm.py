"""SyncBatchNorm over real processes, against BatchNorm2d of the whole batch in one process."""

from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from fcos_core.layers import SyncBatchNorm

CHANNELS = 3


def start(rank, world_size, folder, checks):
    """Run `checks` as one process of a group."""
    # All processes must run the same examples in the same order, so switch off deadlines and shrinking.
    settings.register_profile(
        "lockstep",
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("lockstep")
    torch.set_num_threads(1)
    store, timeout = f"file://{folder}/store", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=timeout)
    for check in checks:
        check()
    dist.destroy_process_group()


def everyone(value):
    """Gather the values of all processes, so that all of them see and raise a failure."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def draw(shapes, seed, offset=0.0):
    """Draw a float64 tensor for each shape (N, H, W), with values around `offset`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, CHANNELS, *size, generator=generator).double() + offset for n, *size in shapes]


def whole(shards):
    """Put all values of each channel into one row, because shards may differ in height and width."""
    return torch.cat([shard.transpose(0, 1).flatten(1) for shard in shards], dim=1)[None, :, None]


def same_start(norm):
    generator = torch.Generator().manual_seed(7)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
    return norm


def train(norm, inputs, pulls):
    """Return outputs and input gradients of a step for each input, then the norm's gradients and buffers."""
    outputs, gradients = [], []
    for x, pull in zip(inputs, pulls, strict=True):
        x = x.clone().requires_grad_()
        outputs.append(norm(x))
        outputs[-1].backward(pull)
        gradients.append(x.grad.cpu())
    return {
        "outputs": [out.detach().cpu() for out in outputs],
        "gradients": gradients,
        "parameters": [parameter.grad.cpu() for parameter in norm.parameters()],
        "buffers": [buffer.cpu() for buffer in norm.buffers()],
    }


def compare(
    shapes, seed=0, offset=0.0, kind=torch.float64, device="cpu", tolerance=1e-12, layer=SyncBatchNorm, **options
):
    """Compare two steps on shards of `shapes`, one per process, with two steps on the whole batch in float64."""
    batches = [draw(shapes, seed + step, offset) for step in range(2)]
    pulls = [draw(shapes, seed + 100 + step) for step in range(2)]
    norm = same_start(layer(CHANNELS, **options).to(device, kind))
    own = [[shards[dist.get_rank()].to(device, kind) for shards in steps] for steps in (batches, pulls)]
    results = everyone(train(norm, *own))
    reference = same_start(nn.BatchNorm2d(CHANNELS, **options).double())
    expected = train(reference, [whole(shards) for shards in batches], [whole(shards) for shards in pulls])
    assert_close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance, check_dtype=False)
    for name in ("outputs", "gradients"):
        for step in range(2):
            assert_close(whole([result[name][step] for result in results]), expected[name][step])
    assert_close(
        [sum(parts) for parts in zip(*(r["parameters"] for r in results), strict=True)], expected["parameters"]
    )
    assert_close(results[0]["buffers"], expected["buffers"])
    for result in results:
        assert all(map(torch.equal, result["buffers"], results[0]["buffers"]))
        assert all(out.dtype == kind for out in result["outputs"])


SHARDS = {2: [(3, 4, 5), (1, 4, 5)], 3: [(2, 4, 4), (1, 4, 4), (5, 4, 4)]}


def check_shards():
    compare(SHARDS[dist.get_world_size()])


# A shard may be empty if all shards together have two values.
side = st.integers(1, 4)
shape = st.tuples(st.integers(0, 3), side, side)


def values(shapes):
    return sum(n * height * width for n, height, width in shapes)


def check_any_shards_and_options():
    world_size = dist.get_world_size()

    @settings(max_examples=60)
    @given(
        st.lists(shape, min_size=world_size, max_size=world_size).filter(lambda shapes: values(shapes) > 1),
        st.integers(0, 2**16),
        st.sampled_from([0.0, 100.0]),
        st.sampled_from([0.1, 1.0, None]),
        st.booleans(),
        st.booleans(),
    )
    def examples(shapes, seed, offset, momentum, affine, track):
        compare(shapes, seed, offset, tolerance=1e-11, momentum=momentum, affine=affine, track_running_stats=track)

    examples()


def check_that_one_value_has_no_variance():
    shapes = [(1, 1, 1), (0, 1, 1)]
    own = draw(shapes, 0)[dist.get_rank()]
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        SyncBatchNorm(CHANNELS).double()(own)


def check_evaluation():
    # In evaluation no process waits for another, so one process alone can run.
    if dist.get_rank() == 0:
        norm, reference = (same_start(kind(CHANNELS)).eval() for kind in (SyncBatchNorm, nn.BatchNorm2d))
        x = torch.rand(2, CHANNELS, 4, 4)
        assert torch.equal(norm(x), reference(x))


def check_bfloat16():
    shards = [shard.bfloat16() for shard in draw(SHARDS[2], 0, offset=10.0)]
    pulls = [pull.bfloat16() for pull in draw(SHARDS[2], 100)]
    rank = dist.get_rank()
    results = everyone(train(same_start(SyncBatchNorm(CHANNELS)), [shards[rank]], [pulls[rank]]))
    expected = train(same_start(nn.BatchNorm2d(CHANNELS)), [whole(shards).float()], [whole(pulls).float()])
    for name in ("outputs", "gradients"):
        got = whole([result[name][0] for result in results])
        # Results are rounded once, at the end.
        torch.testing.assert_close(got, expected[name][0].bfloat16(), rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(results[0]["buffers"], expected["buffers"], rtol=1e-6, atol=1e-6)


CHECKS = {
    1: [check_any_shards_and_options],
    2: [
        check_shards,
        check_any_shards_and_options,
        check_that_one_value_has_no_variance,
        check_evaluation,
        check_bfloat16,
    ],
    3: [check_shards, check_any_shards_and_options],
}


@pytest.mark.parametrize("world_size", CHECKS)
def test_processes_make_what_one_makes_of_the_whole_batch(world_size, tmp_path):
    # Starting processes takes longer than the checks, so start each group once.
    mp.start_processes(
        start, args=(world_size, str(tmp_path), CHECKS[world_size]), nprocs=world_size, start_method="forkserver"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_makes_the_same(tmp_path):
    # Models on GPUs use PyTorch's own SyncBatchNorm.
    on_gpu = partial(compare, SHARDS[2], kind=torch.float32, device="cuda:0", tolerance=1e-5)
    checks = [partial(on_gpu, layer=layer) for layer in (SyncBatchNorm, nn.SyncBatchNorm)]
    mp.start_processes(start, args=(2, str(tmp_path), checks), nprocs=2, start_method="forkserver")


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_a_single_process_is_batch_norm(options):
    norm, reference = (same_start(kind(CHANNELS, **options)) for kind in (SyncBatchNorm, nn.BatchNorm2d))
    batches, pulls = ([draw([(2, 4, 4)], seed + step)[0].float() for step in range(2)] for seed in (0, 100))
    got, expected = train(norm, batches, pulls), train(reference, batches, pulls)
    assert all(all(map(torch.equal, got[name], expected[name])) for name in expected)


def test_state_is_that_of_batch_norm():
    norm, reference = SyncBatchNorm(CHANNELS), nn.BatchNorm2d(CHANNELS)
    assert list(norm.state_dict()) == list(reference.state_dict())
    norm.load_state_dict(reference.state_dict())
