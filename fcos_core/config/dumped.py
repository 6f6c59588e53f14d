"""Read the YAML text that `Config.dump` writes, as it stands in a checkpoint."""

from collections.abc import Mapping
from typing import Any

import yaml

from fcos_core.config.node import leaves

# Far more values than any config needs; a file may hold anything.
_MOST_VALUES = 100_000


def config_values(text: str) -> dict[str, Any]:
    """Return the value of every key, a dotted name, in the YAML text of a config; raise ValueError for another text."""
    try:
        tree = yaml.safe_load(text)
        if not isinstance(tree, Mapping):
            raise ValueError("it has no sections")
        _count(tree, _MOST_VALUES)
        return dict(leaves(tree))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _count(value: Any, left: int) -> int:
    """Subtract the number of values below `value` from `left`; a few aliases of aliases can stand for billions."""
    if left < 0:
        raise ValueError("it has too many values")
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for child in children:
        left = _count(child, left - 1)
    return left
