"""Split images so that every split has its share of every class."""

from collections.abc import Hashable, Sequence

import numpy as np


def stratified_split(
    classes: Sequence[Sequence[int]], groups: Sequence[Hashable], shares: Sequence[float], seed: int
) -> list[int]:
    """Assign images to splits by iterative stratification (Sechidis et al., 2011, algorithm 1).

    The images of the rarest class are given out first, each to the split that lacks most images of that class.

    Args:
        classes: the classes of each image, numbers from 0 on; an image may have several or none.
        groups: images of an equal group stay in one split, such as copies of one photograph.
        shares: part of each split, above 0; their sum is 1.
        seed: of the order of images that are equally good.

    Returns:
        The number of the split of each image.
    """
    rng = np.random.default_rng(seed)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    group_of = np.array([numbers[group] for group in groups], dtype=np.int64)
    # Column 0 stands for every image, so that images without boxes are shared out as a class of their own.
    labels = np.zeros((len(numbers), 2 + max((max(own, default=-1) for own in classes), default=-1)), dtype=bool)
    labels[:, 0] = True
    for number, own in zip(group_of, classes, strict=True):
        labels[number, [label + 1 for label in own]] = True
    sizes = np.bincount(group_of, minlength=len(numbers))
    wanted = np.outer(shares, (labels * sizes[:, None]).sum(axis=0))
    chosen = np.full(len(numbers), -1)
    order = rng.permutation(len(numbers))
    while (open_groups := order[chosen[order] < 0]).size:
        left = labels[open_groups].sum(axis=0)
        present = np.flatnonzero(left[1:]) + 1
        rarest = present[np.argmin(left[present])] if present.size else 0
        for group in open_groups[labels[open_groups, rarest]]:
            # Equal wants of the class are decided by the want of images of any kind.
            split = int(np.lexsort((-wanted[:, 0], -wanted[:, rarest]))[0])
            chosen[group] = split
            wanted[split, labels[group]] -= sizes[group]
    return [int(chosen[number]) for number in group_of]
