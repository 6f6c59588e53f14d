"""Parser of a command line."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from fcos_core.utils.text import printable


class ArgumentParser(argparse.ArgumentParser):
    """Parser of a command's arguments; a word that it cannot understand is shown as one printable line.

    Description and epilog keep their line breaks. The name in the usage is that of the program, or "fcos NAME".
    """

    def __init__(self, **options: Any) -> None:
        program = Path(sys.argv[0])
        if program.name == "fcos" or program.parts[-2:] == ("fcos_core", "__main__.py"):
            options.setdefault("prog", " ".join(["fcos", *map(printable, sys.argv[1:2])]))
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))
