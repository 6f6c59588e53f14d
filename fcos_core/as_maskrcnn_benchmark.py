"""Run a script that imports `maskrcnn_benchmark`, HRNet-FCOS's published package name, with this project.

Usage: python -m fcos_core.as_maskrcnn_benchmark SCRIPT.py [ARGUMENT ...]

The name exists in that process only: nothing is installed, and a package of that name that is installed stays as it
is. `maskrcnn_benchmark.x` is the same module object as `fcos_core.x`.
"""

import os
import runpy
import sys

from fcos_core.errors import InputError
from fcos_core.published_scripts.aliases import ModuleAliases

_NAME = "maskrcnn_benchmark"


def install() -> None:
    """Let `import maskrcnn_benchmark...` give the modules of `fcos_core`, before an installed package of that name."""
    ModuleAliases(_module_of).install(first=True)


def main() -> None:
    """Run the script of the command line as `python SCRIPT.py ARGUMENT ...` would."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    script = sys.argv[1]
    if not os.path.isfile(script):
        sys.exit(f"error: the script '{script}' does not exist (looked at {os.path.abspath(script)}).")
    install()
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except InputError as error:
        sys.exit(f"error: {error}")


def _module_of(name: str) -> str | None:
    top, dot, rest = name.partition(".")
    return f"fcos_core{dot}{rest}" if top == _NAME else None


if __name__ == "__main__":
    main()
