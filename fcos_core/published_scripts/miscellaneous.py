"""Published `utils.miscellaneous`: folders and config files."""

import os
from pathlib import Path

from fcos_core.config import Config
from fcos_core.utils import comm


def mkdir(path: str | os.PathLike[str]) -> None:
    """Create the folder `path` and those above it, unless it exists."""
    os.makedirs(path, exist_ok=True)


def save_config(cfg: Config, path: str | os.PathLike[str]) -> None:
    """Write the config as YAML, on the main process."""
    if comm.is_main_process():
        Path(path).write_text(cfg.dump(), encoding="utf-8")
