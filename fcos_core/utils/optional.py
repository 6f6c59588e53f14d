"""Import packages that only some users need."""

import importlib
from types import ModuleType

from fcos_core.errors import InputError


def import_optional(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`; raise InputError that names the extra to install if its package is missing.

    Args:
        module: full name, such as "onnxruntime".
        extra: name in [project.optional-dependencies] of pyproject.toml.
        purpose: subject of the message "... needs the package", such as "Export to ONNX".
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise InputError(
            f"{purpose} needs the package {error.name}, which is not installed: pip install 'fcos_core[{extra}]'."
        ) from error
