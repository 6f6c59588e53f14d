"""Names that a YAML may use, and what builds them."""

import difflib
from collections.abc import Callable
from typing import Any

from fcos_core.errors import InputError


class Registry(dict):
    """Maps names to builders; `@REGISTRY.register(name, ...)` adds one."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def register(self, *names: str) -> Callable[[Callable], Callable]:
        def add(builder: Callable) -> Callable:
            for name in names:
                if name in self:
                    raise ValueError(f"{self._key} '{name}' is registered twice")
                self[name] = builder
            return builder

        return add

    def build(self, name: str, *args: Any) -> Any:
        """Call the builder of `name`.

        Raises:
            InputError: the name is unknown; the nearest known one is named.
        """
        if name not in self:
            near = difflib.get_close_matches(name, self, n=1, cutoff=0.0)[0]
            raise InputError(f"{self._key} '{name}' is unknown; the nearest known name is '{near}'.")
        return self[name](*args)


# Builders take the config and give an nn.Module: images (N, 3, H, W) -> list of feature maps, finest first.
# The module publishes `out_channels` (one number) and `strides` (one a level).
BACKBONES = Registry("MODEL.BACKBONE.CONV_BODY")
