"""Registry of the backbone names that a YAML may use."""

import difflib
from collections.abc import Callable

from torch import nn

from fcos_core.config import Config
from fcos_core.errors import InputError

Builder = Callable[[Config], nn.Module]


class Registry(dict[str, Builder]):
    """Dictionary from names to builders; error messages name `key`, the config key that takes the names."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def register(self, *names: str) -> Callable[[Builder], Builder]:
        """Return a decorator that adds a builder under each of `names`; it raises ValueError for a name in use."""

        def add(builder: Builder) -> Builder:
            for name in names:
                if name in self:
                    raise ValueError(f"{self._key} '{name}' is registered twice")
                self[name] = builder
            return builder

        return add

    def build(self, name: str, cfg: Config) -> nn.Module:
        """Call the builder of `name`; for an unknown name raise InputError with the nearest known name."""
        if name not in self:
            near = difflib.get_close_matches(name, self, n=1, cutoff=0.0)[0]
            raise InputError(f"{self._key} '{name}' is unknown; the nearest known name is '{near}'.")
        return self[name](cfg)


# A builder takes the config and returns a module: images (N, 3, H, W) to a list of feature levels, finest first.
# The module publishes `out_channels` (one number for all levels) and `strides` (in pixels, one number per level).
BACKBONES = Registry("MODEL.BACKBONE.CONV_BODY")
