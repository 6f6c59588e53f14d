"""Published `utils.imports`: import a file by its path."""

import importlib.util
import os
import sys
from types import ModuleType

import fcos_core.config.paths_catalog
from fcos_core.errors import InputError


def import_file(module_name: str, file_path: str, make_importable: bool = False) -> ModuleType:
    """Run the Python file `file_path` and return it as the module `module_name`.

    An empty `file_path` gives the project's own catalog: that is what the default of PATHS_CATALOG stands for.

    Args:
        module_name: name of the module.
        file_path: a .py file; ~ is expanded.
        make_importable: let later `import` statements find the module by its name.

    Raises:
        InputError: there is no such file.
    """
    if not file_path:
        return fcos_core.config.paths_catalog
    path = os.path.abspath(os.path.expanduser(file_path))
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise InputError(f"The Python file '{file_path}' does not exist (looked at {path}): correct its path.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if make_importable:
        sys.modules[module_name] = module
    return module
