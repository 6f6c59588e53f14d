"""Run a user's Python file as a module."""

import importlib.util
import os
from types import ModuleType

from fcos_core.errors import InputError


def run_python_file(module_name: str, path: str) -> ModuleType:
    """Run the Python file `path`, in which ~ is expanded, and return it as the module `module_name`.

    Raises:
        InputError: there is no such file.
    """
    absolute = os.path.abspath(os.path.expanduser(path))
    spec = importlib.util.spec_from_file_location(module_name, absolute)
    if spec is None or spec.loader is None or not os.path.isfile(absolute):
        raise InputError(f"The Python file '{path}' does not exist (looked at {absolute}): correct its path.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
