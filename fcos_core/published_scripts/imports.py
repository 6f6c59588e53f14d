"""Published `utils.imports`: import a file by its path."""

import sys
from types import ModuleType

import fcos_core.config.paths_catalog
from fcos_core.utils.python_file import run_python_file


def import_file(module_name: str, file_path: str, make_importable: bool = False) -> ModuleType:
    """Run the Python file `file_path` and return it as the module `module_name`; see `run_python_file`.

    An empty `file_path` gives the project's own catalog: that is what the default of PATHS_CATALOG stands for.
    With `make_importable`, later `import` statements find the module by its name.
    """
    if not file_path:
        return fcos_core.config.paths_catalog
    module = run_python_file(module_name, file_path)
    if make_importable:
        sys.modules[module_name] = module
    return module
