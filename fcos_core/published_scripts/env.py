"""Published `utils.env`: run the user's own set-up before anything else, if there is one."""

import os

from fcos_core.errors import InputError
from fcos_core.utils.python_file import run_python_file

_VARIABLE = "TORCH_DETECTRON_ENV_MODULE"


def setup_environment() -> None:
    """Call `setup_environment` of the Python file that TORCH_DETECTRON_ENV_MODULE names; without it do nothing.

    Raise InputError if the file is missing or lacks the function.
    """
    path = os.environ.get(_VARIABLE)
    if not path:
        return
    function = getattr(run_python_file("fcos_core.utils.env.custom_module", path), "setup_environment", None)
    if not callable(function):
        raise InputError(f"{_VARIABLE} names '{path}', which has no function setup_environment(): add it.")
    function()


# Published scripts import the name without calling it: the import is the call.
setup_environment()
