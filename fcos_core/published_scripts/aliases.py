"""Give modules further import paths."""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class ModuleAliases(MetaPathFinder, Loader):
    """Finder and loader of Python's import system that gives modules a second import path.

    Both paths give the same module object, so that a class has one identity and a config one state.

    Args:
        target: from an import path to the path of the module that stands for it; None for a path that is no alias.
    """

    def __init__(self, target: Callable[[str], str | None]) -> None:
        self._target = target

    def install(self, first: bool = False) -> None:
        """Join Python's finders, behind all others or `first`."""
        sys.meta_path.insert(0 if first else len(sys.meta_path), self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, module: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load the alias `name`; None if it is none."""
        return None if self._target(name) is None else ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python create an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Import the module that stands for the alias and put it in the alias's place."""
        # A loader may replace its module in sys.modules; `import` then returns what it finds there.
        name = module.__name__
        sys.modules[name] = importlib.import_module(str(self._target(name)))
