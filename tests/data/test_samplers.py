"""The laws of the samplers: pure in (seed, iteration), fair to every image, blind to the processes."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_core.data.samplers import (
    PaddedSize,
    SampleKey,
    TestBatchSampler,
    TrainBatchSampler,
    TrainSampler,
    sample_rng,
)
from fcos_core.data.transforms import Resize
from fcos_core.errors import InputError

GROUPS = st.lists(st.integers(0, 1), min_size=1, max_size=15)
SEEDS = st.integers(0, 2**40)

seeded = settings(derandomize=True, deadline=None, max_examples=60)


def no_padding(iteration: int, batch: list[int]) -> tuple[int, int]:
    return (0, 0)


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
    whole = TrainBatchSampler(TrainSampler(groups, size, seed), no_padding, start_iter, start_iter + 5)
    parts = [
        TrainBatchSampler(TrainSampler(groups, size, seed), no_padding, start_iter, start_iter + 5, rank, world_size)
        for rank in range(world_size)
    ]
    together = [list(chain.from_iterable(shares)) for shares in zip(*parts, strict=True)]
    assert together == list(whole)
    assert [[key.slot for key in keys] for keys in whole] == [list(range(size))] * 5


@seeded
@given(GROUPS, SEEDS, st.integers(0, 30))
def test_resuming_goes_on_as_if_never_stopped(groups, seed, start_iter):
    from_start = TrainBatchSampler(TrainSampler(groups, 2, seed), no_padding, 0, 30)
    resumed = TrainBatchSampler(TrainSampler(groups, 2, seed), no_padding, start_iter, 30)
    assert list(from_start)[start_iter:] == list(resumed)
    assert len(resumed) == 30 - start_iter
    assert [keys[0].iteration for keys in resumed] == list(range(start_iter + 1, 31))


@seeded
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=5), SEEDS, st.integers(1, 10**6)
)
def test_padded_size_is_the_least_that_holds_every_image(sizes, seed, iteration):
    resize = Resize(range(640, 801), 1333)
    padded = PaddedSize(np.array(sizes), resize.output_size, seed, 32)(iteration, range(len(sizes)))
    drawn = [resize.output_size(size, sample_rng(seed, iteration, slot)) for slot, size in enumerate(sizes)]
    width, height = (max(sides) for sides in zip(*drawn, strict=True))
    assert padded[0] % 32 == padded[1] % 32 == 0
    assert 0 <= padded[0] - height < 32 and 0 <= padded[1] - width < 32


@pytest.mark.parametrize(
    ("sizes", "height_and_width"),
    [
        # 1344x800 for landscape, 800x1344 for portrait, the larger of both sides for a mix: the numbers.
        ([(640, 480), (500, 375)], (800, 1344)),
        ([(480, 640)], (1344, 800)),
        ([(640, 480), (480, 640)], (1344, 1344)),
        # A sliver's longer side is truncated after its shorter one was rounded up: it may pass 1333.
        ([(10000, 42)], (800, 1440)),
    ],
)
def test_fixed_padded_size(sizes, height_and_width):
    resize = Resize((640, 800), 1333)
    padded_size = PaddedSize(np.array(sizes), resize.output_size, 0, 32, fixed=(1333, 800))
    for iteration in range(1, 6):
        assert padded_size(iteration, range(len(sizes))) == height_and_width


def test_iterating_twice_gives_the_same():
    sampler = TrainBatchSampler(TrainSampler([0, 1, 0, 1, 1], 2, 0), no_padding, 3, 12)
    assert list(sampler) == list(sampler)


def test_a_finished_run_has_no_iterations_left():
    sampler = TrainBatchSampler(TrainSampler([0], 1, 0), no_padding, 10, 7)
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
    # 50 images in batches of 5: an epoch is 10 iterations, a block 50; chance would repeat one in 50! cases.
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
    # Fifty of each in one order or the other would change once; a random order changes about fifty times.
    assert sum(a != b for a, b in pairwise(turns)) > 20
    assert Counter(turns) == {0: 50, 1: 50}


@pytest.mark.parametrize("groups", [[0, 0, 0], [1, 1, 1]])
def test_an_empty_group_is_no_matter(groups):
    assert Counter(chain.from_iterable(batches(TrainSampler(groups, 2, 0), 1, 3))) == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize(("size", "world_size"), [(5, 2), (0, 1), (-2, 2), (1, 4)])
def test_a_batch_that_processes_cannot_share_equally(size, world_size):
    sampler = TrainSampler([0, 0], size, 0)
    with pytest.raises(InputError, match=rf"IMS_PER_BATCH is {size}.* positive multiple of {world_size}"):
        TrainBatchSampler(sampler, no_padding, 0, 10, 0, world_size)


@seeded
@given(st.integers(0, 30), st.integers(1, 8), st.integers(1, 5))
def test_testing_takes_each_image_once_in_the_same_batches_for_any_processes(num_images, size, world_size):
    whole = list(TestBatchSampler(num_images, size))
    assert [key.index for keys in whole for key in keys] == list(range(num_images))
    assert all(len(keys) == size for keys in whole[:-1])
    for rank in range(world_size):
        part = TestBatchSampler(num_images, size, rank, world_size)
        assert list(part) == whole[rank::world_size]
        assert len(part) == len(whole[rank::world_size])


def test_an_empty_test_batch():
    with pytest.raises(InputError, match=r"TEST\.IMS_PER_BATCH is 0"):
        TestBatchSampler(4, 0)


def test_every_sample_has_its_own_generator():
    keys = [(seed, iteration, slot) for seed in (0, 1) for iteration in (1, 2, 2**33) for slot in range(4)]
    draws = {sample_rng(*key).integers(2**63) for key in keys}
    assert len(draws) == len(keys)
    assert sample_rng(5, 6, 7).integers(2**63) == sample_rng(5, 6, 7).integers(2**63)


def test_keys_can_be_told_apart_by_name():
    (keys,) = TrainBatchSampler(TrainSampler([0], 2, 0), no_padding, 4, 5)
    assert keys == [SampleKey(index=0, iteration=5, slot=0), SampleKey(index=0, iteration=5, slot=1)]
