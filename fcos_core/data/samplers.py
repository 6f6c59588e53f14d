"""Which images make a batch; training batches are a function of seed and iteration alone."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fcos_core.errors import InputError

# Second word of every seed, so that the draws for different purposes are independent of each other.
_SAMPLE, _PERMUTATION, _BLOCK = range(3)


class SampleKey(NamedTuple):
    """One image of a batch.

    Attributes:
        index: in the dataset.
        iteration: 1-based.
        slot: place in the batch over all processes.
        padded_size: (height, width) of the whole batch; (0, 0): what the images at hand need.
    """

    index: int
    iteration: int
    slot: int
    padded_size: tuple[int, int] = (0, 0)


def sample_rng(seed: int, iteration: int, slot: int) -> np.random.Generator:
    """The generator of every random draw for one image: a function of its arguments, all at least 0."""
    return np.random.default_rng((seed, _SAMPLE, iteration, slot))


class TrainSampler:
    """Training batches of one group each, as a pure function of the iteration.

    Each group is an endless stream of its images, one permutation (an epoch) after another. In each block of N
    iterations, N being the number of images, a group of n images is taken by exactly n iterations at random
    places, each taking the next `ims_per_batch` images of the stream: a block shows every image exactly
    `ims_per_batch` times. A batch holds an image twice only where it crosses from one epoch of its group to the
    next, which every batch of a group smaller than `ims_per_batch` does.

    Args:
        group_ids: (N,) group of each image, such as 0 for landscape and 1 for portrait.
        ims_per_batch: images of a batch over all processes.
        seed: at least 0.
    """

    def __init__(self, group_ids: Sequence[int], ims_per_batch: int, seed: int) -> None:
        group_ids = np.asarray(group_ids, dtype=np.int64)
        self.ims_per_batch = ims_per_batch
        self.seed = seed
        self._members = [np.flatnonzero(group_ids == group) for group in np.unique(group_ids)]
        # Drawing them takes time in proportion to the dataset; an iteration's own share should not.
        self._epoch = lru_cache(maxsize=8)(self._draw_epoch)
        self._block = lru_cache(maxsize=2)(self._draw_block)

    def batch(self, iteration: int) -> list[int]:
        """Dataset indices of the batch of the 1-based `iteration`, over all processes."""
        length = sum(map(len, self._members))
        block, offset = divmod(iteration - 1, length)
        groups, earlier = self._block(block)
        group, size = groups[offset], len(self._members[groups[offset]])
        start = (block * size + int(earlier[offset])) * self.ims_per_batch
        places = (divmod(position, size) for position in range(start, start + self.ims_per_batch))
        return [int(self._epoch(group, epoch)[place]) for epoch, place in places]

    def _draw_epoch(self, group: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, _PERMUTATION, group, epoch))
        return rng.permutation(self._members[group])

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Group of each iteration of the block, and how many iterations before it in the block have it too."""
        sizes = [len(members) for members in self._members]
        groups = np.repeat(np.arange(len(sizes)), sizes)
        groups = np.random.default_rng((self.seed, _BLOCK, block)).permutation(groups)
        earlier = np.empty_like(groups)
        for group, size in enumerate(sizes):
            earlier[groups == group] = np.arange(size)
        return groups, earlier


class PaddedSize:
    """Size that a whole training batch is padded to, so that every share of it is.

    GroupNorm and the focal loss's negatives see the padding. As scales are drawn from (seed, iteration, slot),
    the size is known without reading an image.

    Args:
        image_sizes: (N, 2), width and height of each image of the dataset.
        output_size: of the transform: (width, height) of an image and its generator to those it is given.
        seed: of the draws.
        size_divisible: height and width are a multiple of this.
        fixed: (longer, shorter) side that every batch is padded to at least, along the images' longer and
            shorter sides; None: to what its images need.
    """

    def __init__(
        self,
        image_sizes: np.ndarray,
        output_size: Callable[[tuple[int, int], np.random.Generator], tuple[int, int]],
        seed: int,
        size_divisible: int,
        fixed: tuple[int, int] | None = None,
    ) -> None:
        self.image_sizes = image_sizes
        self.output_size = output_size
        self.seed = seed
        self.size_divisible = size_divisible
        self.fixed = fixed

    def __call__(self, iteration: int, batch: Sequence[int]) -> tuple[int, int]:
        """(height, width) for the dataset indices `batch`, those of all processes."""
        needed = [(0, 0)]
        for slot, index in enumerate(batch):
            size = tuple(self.image_sizes[index].tolist())
            needed.append(self.output_size(size, sample_rng(self.seed, iteration, slot)))
            if self.fixed is not None:
                needed.append(self.fixed if size[0] >= size[1] else self.fixed[::-1])
        width, height = (
            -(-max(sides) // self.size_divisible) * self.size_divisible for sides in zip(*needed, strict=True)
        )
        return height, width


class TrainBatchSampler:
    """This process's share of the batches of iterations start_iter + 1 to max_iter.

    Of B images, rank r of W takes slots r * B / W to (r + 1) * B / W.

    Args:
        sampler: gives the whole batches.
        padded_size: the size that all shares of a batch are padded to.

    Raises:
        InputError: the batch cannot be shared equally among the processes.
    """

    def __init__(
        self,
        sampler: TrainSampler,
        padded_size: PaddedSize,
        start_iter: int,
        max_iter: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        ims_per_batch = sampler.ims_per_batch
        if ims_per_batch < 1 or ims_per_batch % world_size:
            raise InputError(
                f"SOLVER.IMS_PER_BATCH is {ims_per_batch}, which {world_size} processes cannot share equally: "
                f"write a positive multiple of {world_size}."
            )
        self._sampler = sampler
        self._padded_size = padded_size
        self._iterations = range(start_iter + 1, max_iter + 1)
        share = ims_per_batch // world_size
        self._slots = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self._iterations)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration in self._iterations:
            batch = self._sampler.batch(iteration)
            padded_size = self._padded_size(iteration, batch)
            yield [SampleKey(batch[slot], iteration, slot, padded_size) for slot in self._slots]


class TestBatchSampler:
    """Every image once, in order; of the batches, rank r of W takes number r, r + W, ...

    The batches, and so the padding of each image, are the same for any number of processes.

    Args:
        num_images: of the dataset.
        ims_per_batch: images of a batch; the last may have fewer.
    """

    __test__ = False  # pytest takes it for a test otherwise

    def __init__(self, num_images: int, ims_per_batch: int, rank: int = 0, world_size: int = 1) -> None:
        self._num_images = num_images
        self._ims_per_batch = ims_per_batch
        self._starts = range(rank * ims_per_batch, num_images, world_size * ims_per_batch)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start in self._starts:
            stop = min(start + self._ims_per_batch, self._num_images)
            yield [SampleKey(index, 0, index - start) for index in range(start, stop)]
