"""Show the progress of long work: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Seconds before a bar appears, and between two plain lines.
_DELAY, _PERIOD = 2.0, 10.0

logger = logging.getLogger(__name__)


def progress(
    items: Iterable[Item],
    total: int | None,
    work: str,
    unit: str = "image",
    size: Callable[[Item], int] = lambda item: 1,
    shown: bool = True,
) -> Iterator[Item]:
    """Yield `items`; work of more than two seconds shows a bar on a terminal, or a line every ten seconds elsewhere.

    Args:
        items: to go through.
        total: the sum of their sizes; None: not known.
        work: its name, such as "Checking images".
        unit: name of one of the things that `size` counts.
        size: part of `total` that an item is; a part beyond `total` is not counted.
        shown: False: only yield, as processes other than the main one do.
    """
    done, told = 0, time.monotonic()
    on_terminal = sys.stderr.isatty()
    with tqdm(desc=work, total=total, unit=unit, delay=_DELAY, disable=not (shown and on_terminal)) as bar:
        for item in items:
            yield item
            count = size(item) if total is None else min(size(item), total - done)
            done += count
            bar.update(count)
            if shown and not on_terminal and time.monotonic() - told >= _PERIOD:
                told = time.monotonic()
                logger.info("%s: %d%s %ss done", work, done, f" of {total}" if total is not None else "", unit)
