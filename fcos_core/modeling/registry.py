"""Registry of the backbone names that a YAML may use."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fcos_core.config import Config
from fcos_core.errors import InputError

Builder = Callable[[Config], nn.Module]


class Registry(dict[str, Any]):
    """Dictionary from names to builders; error messages name `key`, the config key that takes the names."""

    def __init__(self, key: str | Mapping[str, Any] = "name") -> None:
        """Make a registry of no builders, or of those in a mapping, as published scripts write it."""
        super().__init__({} if isinstance(key, str) else key)
        self._key = key if isinstance(key, str) else "name"

    def register(self, module_name: str, *others: Any, module: Any = None) -> Any:
        """Add a builder under one or several names, as a decorator or at once.

        `register("A", "B")` returns a decorator; `register("A", "B", builder)` adds `builder` and returns it.

        Raises:
            TypeError: a name is not text, or the builder cannot be called.
            ValueError: a name is in use.
        """
        names = [module_name, *others]
        if not isinstance(names[-1], str) and len(names) > 1:
            last = names.pop()
            module = last if module is None else module
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"register() takes names and then the builder, such as register('MY-FPN', build): {names}")

        def add(builder: Any) -> Any:
            if not callable(builder):
                raise TypeError(f"{self._key} {', '.join(names)}: {builder!r} is not a function or a class")
            for name in names:
                if name in self or names.count(name) > 1:
                    raise ValueError(f"{self._key} '{name}' is registered twice")
            self.update(dict.fromkeys(names, builder))
            return builder

        return add if module is None else add(module)

    def build(self, name: str, cfg: Config) -> nn.Module:
        """Call the builder of `name`; for an unknown name raise InputError with the nearest known name."""
        if name not in self:
            near = difflib.get_close_matches(name, self, n=1, cutoff=0.0)
            known = f"the nearest known name is '{near[0]}'" if near else "no name is registered"
            raise InputError(f"{self._key} '{name}' is unknown; {known}.")
        return self[name](cfg)


# A builder takes the config and returns a module: images (N, 3, H, W) to a list of feature levels, finest first.
# The module publishes `out_channels` (one number for all levels) and `strides` (in pixels, one number per level).
BACKBONES = Registry("MODEL.BACKBONE.CONV_BODY")
