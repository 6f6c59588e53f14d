"""Draw batches: which images, how large and flipped or not, as a function of seed and iteration alone."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from fcos_core.data.augment_plan import Augmenter
from fcos_core.data.plan import BatchPlan, SamplePlan
from fcos_core.data.resize import FCOS_RESIZE, Resize
from fcos_core.errors import InputError
from fcos_core.structures.image_list import padded_size

Item = TypeVar("Item")

# Second word of every seed, so that the draws for different purposes are independent of each other.
_SAMPLE, _PERMUTATION, _BLOCK, _AUGMENTATION = range(4)


class BatchPlanner:
    """Draw everything that chance decides about the images of a batch, from (seed, iteration, slot).

    Sizes are computed from the annotation file, so no pixel is read.

    Args:
        image_sizes: (N, 2) int64, width and height in pixels of each image of the dataset.
        min_sizes: shorter sides in pixels to draw from, each with the same probability.
        max_size: cap on the longer side in pixels.
        flip_prob: probability of a flip.
        seed: at least 0.
        size_divisible: height and width of a padded batch are multiples of this.
        pad_to_longest: pad every batch to the longest sides that `min_sizes` and `max_size` allow, rather than to
            the sizes of its images.
        resize: the rule of sizes and pixels.
        augmenter: draws the augmentation of each image; None: no augmentation.
    """

    def __init__(
        self,
        image_sizes: np.ndarray,
        min_sizes: Sequence[int],
        max_size: int,
        flip_prob: float,
        seed: int,
        size_divisible: int,
        pad_to_longest: bool = False,
        resize: Resize = FCOS_RESIZE,
        augmenter: Augmenter | None = None,
    ) -> None:
        self.image_sizes = image_sizes
        self.min_sizes = min_sizes
        self.max_size = max_size
        self.flip_prob = flip_prob
        self.seed = seed
        self.size_divisible = size_divisible
        self.pad_to_longest = pad_to_longest
        self.resize = resize
        self.augmenter = augmenter

    def plan(self, iteration: int, indices: Sequence[int]) -> BatchPlan:
        """Plan the whole batch of `iteration`, that is, the images of all ranks.

        The padded size is common to all ranks because GroupNorm and the focal loss's negatives see the padding.
        """
        samples = tuple(self._plan_sample(iteration, slot, index) for slot, index in enumerate(indices))
        sizes = [sample.size for sample in samples]
        if self.pad_to_longest:
            sizes += [self._longest_sides(sample.index) for sample in samples]
        return BatchPlan(samples, padded_size([(height, width) for width, height in sizes], self.size_divisible))

    def replacement(self, plan: SamplePlan, index: int, padded_size: tuple[int, int]) -> SamplePlan:
        """Plan image `index` in the place of an unreadable one, by the same draws.

        Other ranks do not know about the replacement, so it is scaled down to fit the (height, width) that they
        pad to.
        """
        width, height = self._resized_size(index, plan.min_size)
        scale = min(padded_size[1] / width, padded_size[0] / height, 1.0)
        size = (max(int(width * scale), 1), max(int(height * scale), 1))
        augmentation = plan.augmentation and plan.augmentation.with_image(index, size)
        return replace(plan, index=index, size=size, augmentation=augmentation)

    def own_padded_size(self, index: int) -> tuple[int, int]:
        """Return the padded (height, width) of image `index` in a batch of its own, at the first of `min_sizes`."""
        width, height = self._resized_size(index, self.min_sizes[0])
        return padded_size([(height, width)], self.size_divisible)

    def _plan_sample(self, iteration: int, slot: int, index: int) -> SamplePlan:
        """Draw for one image; a new kind of draw comes last, so that a seed keeps the earlier ones."""
        rng = np.random.default_rng((self.seed, _SAMPLE, iteration, slot))
        min_size = self.min_sizes[int(rng.integers(len(self.min_sizes)))]
        flip = bool(rng.random() < self.flip_prob)
        augmentation = None
        if self.augmenter is not None:
            seed = (self.seed, _AUGMENTATION, iteration, slot)
            augmentation = self.augmenter.draw(seed, iteration, index, min_size, self._resized_size)
        return SamplePlan(index, self._resized_size(index, min_size), flip, min_size, self.resize, augmentation)

    def _resized_size(self, index: int, min_size: int) -> tuple[int, int]:
        width, height = self.image_sizes[index].tolist()
        return self.resize.size((width, height), min_size, self.max_size)

    def _longest_sides(self, index: int) -> tuple[int, int]:
        """Return the largest (width, height) of a resized image of this orientation, up to rounding."""
        longer, shorter = self.max_size, min(max(self.min_sizes), self.max_size)
        width, height = self.image_sizes[index].tolist()
        return (longer, shorter) if width >= height else (shorter, longer)


class TrainSampler:
    """Draw the indices of training batches, each from one group, as a pure function of the iteration.

    Each group is an endless stream of its images, one permutation (an epoch) after another. In each block of N
    iterations, where N is the number of images, a group of n images gets n iterations at random places. Each of
    them takes the next `ims_per_batch` images of the group's stream, so a block shows every image exactly
    `ims_per_batch` times. A batch contains an image twice only if the batch crosses from one epoch of its group to
    the next, as every batch of a group with fewer than `ims_per_batch` images does.

    Args:
        group_ids: (N,) group of each image, such as 0 for landscape and 1 for portrait.
        ims_per_batch: images of a batch over all ranks.
        seed: at least 0.
    """

    def __init__(self, group_ids: Sequence[int] | np.ndarray, ims_per_batch: int, seed: int) -> None:
        group_ids = np.asarray(group_ids, dtype=np.int64)
        self.ims_per_batch = ims_per_batch
        self.seed = seed
        self._members = [np.flatnonzero(group_ids == group) for group in np.unique(group_ids)]
        # A draw takes time in proportion to the dataset, so keep the latest draws for the next iterations.
        self._epoch = lru_cache(maxsize=8)(self._draw_epoch)
        self._block = lru_cache(maxsize=2)(self._draw_block)

    def batch(self, iteration: int) -> list[int]:
        """Return the dataset indices of the whole batch, over all ranks, of the 1-based `iteration`."""
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
        """Return two (N,) arrays: the group of each iteration of the block, and how often the group came before."""
        sizes = [len(members) for members in self._members]
        groups = np.repeat(np.arange(len(sizes)), sizes)
        groups = np.random.default_rng((self.seed, _BLOCK, block)).permutation(groups)
        earlier = np.empty_like(groups)
        for group, size in enumerate(sizes):
            earlier[groups == group] = np.arange(size)
        return groups, earlier


class TrainBatchSampler:
    """Yield one rank's share of the batches of iterations start_iter + 1 to max_iter.

    Of B images, rank r of W takes slots r * B / W to (r + 1) * B / W - 1.

    Args:
        sampler: draws the indices of the whole batches.
        planner: draws everything else.
        start_iter: iterations already trained.
        max_iter: last iteration.
        rank: of this process.
        world_size: number of ranks.

    Raises:
        InputError: the batch cannot be shared equally among the ranks.
    """

    def __init__(
        self,
        sampler: TrainSampler,
        planner: BatchPlanner,
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
        self._planner = planner
        self._iterations = range(start_iter + 1, max_iter + 1)
        share = ims_per_batch // world_size
        self._slots = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self._iterations)

    def __iter__(self) -> Iterator[BatchPlan]:
        for iteration in self._iterations:
            plan = self._planner.plan(iteration, self._sampler.batch(iteration))
            yield replace(plan, samples=plan.samples[self._slots])


class TestBatchSampler:
    """Yield every image once, in batches of images that have the same padded sizes; each batch belongs to one rank.

    An image is padded as it would be alone, so what group normalization sees of it, and therefore its detections, do
    not depend on the other images of its batch, and no pixel is computed for the sake of another image. The largest
    batches come first: too little memory shows at once, and the batches of one size follow each other. Rank r of W
    takes batches r, r + W, r + 2W, ..., so two ranks differ by at most one batch, and in pixels by at most the
    largest one.

    Args:
        planners: of the dataset, one for each view of an image, each with one size and a flip probability of 0 or 1.
        ims_per_batch: images of a batch; the last batch of images of one kind may have fewer.
        rank: of this process.
        world_size: number of ranks.
    """

    __test__ = False  # The name starts with Test, but pytest must not collect the class.

    def __init__(
        self, planners: Sequence[BatchPlanner], ims_per_batch: int, rank: int = 0, world_size: int = 1
    ) -> None:
        def padded_sizes(index: int) -> tuple[tuple[int, int], ...]:
            return tuple(planner.own_padded_size(index) for planner in planners)

        def largest_first(batch: list[int]) -> tuple[int, tuple[tuple[int, int], ...]]:
            sizes = padded_sizes(batch[0])
            return -len(batch) * sum(height * width for height, width in sizes), sizes

        images = range(len(planners[0].image_sizes))
        batches = sorted(same_size_batches(images, padded_sizes, ims_per_batch), key=largest_first)
        self._planners = planners
        self._batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[BatchPlan]:
        for batch in self._batches:
            plan, *views = (planner.plan(0, batch) for planner in self._planners)
            yield replace(plan, views=tuple(views))


def same_size_batches(
    items: Iterable[Item], size_of: Callable[[Item], Hashable], ims_per_batch: int
) -> Iterator[list[Item]]:
    """Gather `items` of equal size into lists of `ims_per_batch`, each as soon as it is full; the rest comes last."""
    waiting: dict[Hashable, list[Item]] = {}
    for item in items:
        size = size_of(item)
        waiting.setdefault(size, []).append(item)
        if len(waiting[size]) == ims_per_batch:
            yield waiting.pop(size)
    yield from waiting.values()
