"""Published `utils.registry`: names and what they stand for."""

from collections.abc import Callable
from typing import Any


class Registry(dict[str, Any]):
    """Dictionary that also registers by `register("NAME", value)` or `@register("NAME")`."""

    def register(self, module_name: str, module: Any = None) -> Callable[[Any], Any] | None:
        """Add `module` under a name, or return the decorator that does; raise ValueError for a name in use."""

        def add(value: Any) -> Any:
            if module_name in self:
                raise ValueError(f"'{module_name}' is registered twice")
            self[module_name] = value
            return value

        if module is None:
            return add
        add(module)
        return None
