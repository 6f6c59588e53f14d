"""Test batch plans: a function of (seed, iteration, slot), fair to every image, the same for any number of ranks."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_core.data.plan import SamplePlan
from fcos_core.data.resize import Resize
from fcos_core.data.samplers import BatchPlanner, TestBatchSampler, TrainBatchSampler, TrainSampler
from fcos_core.errors import InputError

GROUPS = st.lists(st.integers(0, 1), min_size=1, max_size=15)
SEEDS = st.integers(0, 2**40)

seeded = settings(derandomize=True, deadline=None, max_examples=60)


def planner(
    sizes=15 * [(64, 48)], min_sizes=range(640, 801), max_size=1333, flip_prob=0.5, seed=0, divisible=32, longest=False
) -> BatchPlanner:
    return BatchPlanner(np.array(sizes), min_sizes, max_size, flip_prob, seed, divisible, longest)


def batches(sampler: TrainSampler, first: int, last: int) -> list[list[int]]:
    return [sampler.batch(iteration) for iteration in range(first, last + 1)]


@seeded
@given(GROUPS, st.integers(1, 5), SEEDS, st.integers(0, 3))
def test_a_block_shows_each_image_exactly_as_often_as_a_batch_has_images(groups, size, seed, block):
    length = len(groups)
    shown = batches(TrainSampler(groups, size, seed), block * length + 1, (block + 1) * length)
    assert Counter(index for batch in shown for index in batch) == dict.fromkeys(range(length), size)


@seeded
@given(GROUPS, st.integers(1, 5), SEEDS)
def test_a_batch_has_one_group(groups, size, seed):
    for batch in batches(TrainSampler(groups, size, seed), 1, 2 * len(groups)):
        assert len(batch) == size
        assert len({groups[index] for index in batch}) == 1


@seeded
@given(GROUPS, st.integers(1, 5), SEEDS, st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_a_batch_does_not_depend_on_what_was_asked_before(groups, size, seed, iterations):
    used = TrainSampler(groups, size, seed)
    asked = {iteration: used.batch(iteration) for iteration in iterations}
    for iteration, batch in asked.items():
        assert TrainSampler(groups, size, seed).batch(iteration) == batch


@seeded
@given(GROUPS, st.integers(1, 3), st.integers(1, 4), SEEDS, st.integers(0, 40))
def test_any_number_of_processes_makes_the_same_global_batch(groups, share, world_size, seed, start_iter):
    size = share * world_size
    whole = TrainBatchSampler(TrainSampler(groups, size, seed), planner(), start_iter, start_iter + 5)
    parts = [
        TrainBatchSampler(TrainSampler(groups, size, seed), planner(), start_iter, start_iter + 5, rank, world_size)
        for rank in range(world_size)
    ]
    for whole_plan, *shares in zip(whole, *parts, strict=True):
        assert list(chain.from_iterable(share.samples for share in shares)) == list(whole_plan.samples)
        assert {share.padded_size for share in shares} == {whole_plan.padded_size}
        assert len(whole_plan.samples) == size


@seeded
@given(GROUPS, SEEDS, st.integers(0, 30))
def test_resuming_goes_on_as_if_never_stopped(groups, seed, start_iter):
    from_start = TrainBatchSampler(TrainSampler(groups, 2, seed), planner(), 0, 30)
    resumed = TrainBatchSampler(TrainSampler(groups, 2, seed), planner(), start_iter, 30)
    assert list(from_start)[start_iter:] == list(resumed)
    assert len(resumed) == 30 - start_iter


@seeded
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=5), SEEDS, st.integers(1, 10**6)
)
def test_padded_size_is_the_least_that_holds_every_image(sizes, seed, iteration):
    plan = planner(sizes, seed=seed).plan(iteration, range(len(sizes)))
    width, height = (max(sides) for sides in zip(*(sample.size for sample in plan.samples), strict=True))
    padded_height, padded_width = plan.padded_size
    assert padded_height % 32 == padded_width % 32 == 0
    assert 0 <= padded_height - height < 32 and 0 <= padded_width - width < 32


@pytest.mark.parametrize(
    ("sizes", "height_and_width"),
    [
        # Landscape 1344x800, portrait 800x1344 (width x height); a mixed batch takes the longer of both.
        ([(640, 480), (500, 375)], (800, 1344)),
        ([(480, 640)], (1344, 800)),
        ([(640, 480), (480, 640)], (1344, 1344)),
        # The shorter side of a very long image is rounded up, so its longer side may exceed 1333.
        ([(10000, 42)], (800, 1440)),
    ],
)
def test_fixed_padded_size(sizes, height_and_width):
    fixed = planner(sizes, (640, 800), longest=True)
    for iteration in range(1, 6):
        assert fixed.plan(iteration, range(len(sizes))).padded_size == height_and_width


def test_every_listed_size_is_drawn_and_no_other():
    for min_sizes in ((20, 50), range(20, 24)):
        plans = [planner([(40, 30)], min_sizes).plan(iteration, [0]) for iteration in range(1, 61)]
        assert {plan.samples[0].size for plan in plans} == {Resize().size((40, 30), s, 1333) for s in min_sizes}


@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (1.0, 400, 400), (0.25, 70, 130)])
def test_flip_probability(prob, low, high):
    # Of 400 draws with probability 0.25, 100 are expected with deviation 8.7; the range is 3.4 deviations to each side.
    flips = [planner(flip_prob=prob).plan(iteration, [0]).samples[0].flip for iteration in range(1, 401)]
    assert low <= sum(flips) <= high and {type(flip) for flip in flips} == {bool}


def test_the_draws_of_a_seed_are_those_of_earlier_versions():
    # The order of the draws is fixed: first the place of the shorter side, then the flip. New draws may only follow.
    plan = planner([(640, 480), (480, 640)], range(640, 801), seed=5).plan(7, [1, 0])
    rngs = [np.random.default_rng((5, 0, 7, slot)) for slot in range(2)]
    drawn = [(640 + rng.integers(161), rng.random() < 0.5) for rng in rngs]
    assert [(sample.min_size, sample.flip) for sample in plan.samples] == drawn
    assert plan.samples[0] == SamplePlan(1, (664, 885), True, 664)


@seeded
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=2, max_size=5), SEEDS, st.integers(1, 10**6)
)
def test_a_replacement_has_the_same_draws_and_fits_the_padded_size(sizes, seed, iteration):
    batch_planner = planner(sizes, seed=seed)
    plan = batch_planner.plan(iteration, [0])
    replaced = batch_planner.replacement(plan.samples[0], 1, plan.padded_size)
    assert (replaced.index, replaced.flip, replaced.min_size) == (1, plan.samples[0].flip, plan.samples[0].min_size)
    width, height = replaced.size
    assert 1 <= width <= max(plan.padded_size[1], 1) and 1 <= height <= max(plan.padded_size[0], 1)
    wanted = Resize().size(sizes[1], replaced.min_size, 1333)
    if wanted[0] <= plan.padded_size[1] and wanted[1] <= plan.padded_size[0]:
        assert replaced.size == wanted


def test_iterating_twice_gives_the_same():
    sampler = TrainBatchSampler(TrainSampler([0, 1, 0, 1, 1], 2, 0), planner(), 3, 12)
    assert list(sampler) == list(sampler)


def test_a_finished_run_has_no_iterations_left():
    sampler = TrainBatchSampler(TrainSampler([0], 1, 0), planner(), 10, 7)
    assert len(sampler) == 0 and list(sampler) == []


@seeded
@given(st.integers(1, 6), st.integers(1, 5), SEEDS)
def test_a_batch_within_an_epoch_holds_no_image_twice(factor, size, seed):
    # n = factor * size images: no batch crosses from one epoch to the next.
    for batch in batches(TrainSampler([0] * factor * size, size, seed), 1, 3 * factor):
        assert len(set(batch)) == size


def test_an_epoch_shows_every_image_before_any_again():
    first_epoch = batches(TrainSampler([0] * 12, 4, 0), 1, 3)
    assert sorted(chain.from_iterable(first_epoch)) == list(range(12))


def test_every_epoch_and_every_seed_has_its_own_order():
    # With 50 images in batches of 5, an epoch has 10 iterations and a block 50. An order repeats by chance in 1 of 50!.
    starts = [(seed, first) for seed in (0, 1) for first in (1, 11, 51, 61)]
    epochs = {
        tuple(chain.from_iterable(batches(TrainSampler([0] * 50, 5, seed), first, first + 9))) for seed, first in starts
    }
    assert len(epochs) == len(starts)
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)


def test_every_block_and_every_seed_has_its_own_turns_of_the_groups():
    groups = [0] * 25 + [1] * 25
    turns = {
        tuple(groups[batch[0]] for batch in batches(TrainSampler(groups, 1, seed), first, first + 49))
        for seed in (0, 1)
        for first in (1, 51)
    }
    assert len(turns) == 4


def test_groups_take_turns_at_random_not_in_a_row():
    groups = [0] * 50 + [1] * 50
    turns = [groups[batch[0]] for batch in batches(TrainSampler(groups, 2, 0), 1, 100)]
    # Fifty batches of one group and then fifty of the other change group once; a random order about fifty times.
    assert sum(a != b for a, b in pairwise(turns)) > 20
    assert Counter(turns) == {0: 50, 1: 50}


@pytest.mark.parametrize("groups", [[0, 0, 0], [1, 1, 1]])
def test_an_empty_group_is_no_matter(groups):
    assert Counter(chain.from_iterable(batches(TrainSampler(groups, 2, 0), 1, 3))) == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize(("size", "world_size"), [(5, 2), (0, 1), (-2, 2), (1, 4)])
def test_a_batch_that_processes_cannot_share_equally(size, world_size):
    sampler = TrainSampler([0, 0], size, 0)
    with pytest.raises(InputError, match=rf"IMS_PER_BATCH is {size}.* positive multiple of {world_size}"):
        TrainBatchSampler(sampler, planner(), 0, 10, 0, world_size)


def pixels(plan) -> int:
    height, width = plan.padded_size
    return height * width * len(plan.samples)


@seeded
@given(
    st.lists(st.tuples(st.integers(20, 200), st.integers(20, 200)), max_size=40), st.integers(1, 8), st.integers(1, 5)
)
def test_testing_takes_each_image_once_in_batches_of_one_padded_size_for_any_processes(sizes, limit, world_size):
    test_planner = planner(np.array(sizes).reshape(-1, 2), (64,), 128, 0.0)
    whole = list(TestBatchSampler([test_planner], limit))
    samples = sorted((sample for plan in whole for sample in plan.samples), key=lambda sample: sample.index)
    assert samples == [SamplePlan(i, Resize().size(size, 64, 128), False, 64) for i, size in enumerate(sizes)]
    for plan in whole:
        # Every image is padded as it would be alone.
        assert {test_planner.plan(0, [sample.index]).padded_size for sample in plan.samples} == {plan.padded_size}
        assert 1 <= len(plan.samples) <= limit
    partial = Counter(plan.padded_size for plan in whole if len(plan.samples) < limit)
    assert max(partial.values(), default=0) <= 1
    shares = [list(TestBatchSampler([test_planner], limit, rank, world_size)) for rank in range(world_size)]
    assert [len(TestBatchSampler([test_planner], limit, rank, world_size)) for rank in range(world_size)] == [
        len(share) for share in shares
    ]
    assert sorted(chain.from_iterable(shares), key=whole.index) == whole
    # Fair: no two ranks differ by more than one batch, or by more pixels than the largest batch has.
    work = [sum(map(pixels, share)) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert max(work) - min(work) <= max(map(pixels, whole), default=0)


def test_testing_computes_nothing_for_another_image_and_repeats_few_sizes():
    # At 800 pixels, 640x480 becomes 1066x800, padded to 1088x800: one padded size for each orientation.
    mixed = planner([(640, 480), (480, 640), (640, 480)] * 20, (800,), 1333, 0.0)
    plans = list(TestBatchSampler([mixed], 8))
    assert [(plan.padded_size, len(plan.samples)) for plan in plans] == [
        *[((800, 1088), 8)] * 5,
        *[((1088, 800), 8)] * 2,
        ((1088, 800), 4),
    ]
    assert [sample.index for sample in plans[0].samples] == [0, 2, 3, 5, 6, 8, 9, 11]


def test_every_sample_has_its_own_draws():
    places = [(seed, iteration, slot) for seed in (0, 1) for iteration in (1, 2, 2**33) for slot in range(4)]
    drawn = [
        planner(seed=seed, min_sizes=range(1, 2**40), max_size=2**60).plan(iteration, [0] * 4).samples[slot].min_size
        for seed, iteration, slot in places
    ]
    assert len(set(drawn)) == len(places)
    again = planner(seed=1, min_sizes=range(1, 2**40), max_size=2**60).plan(2**33, [0] * 4)
    assert again.samples[3].min_size == drawn[-1]
