"""List what changed in the config between the run that saved a checkpoint and the run that resumes from it."""

import logging
from collections.abc import Iterator

from fcos_core.config import Config
from fcos_core.config.dumped import config_values
from fcos_core.utils import comm
from fcos_core.utils.text import Block, printable

_NOTES = {"MODEL.WEIGHT": " (not read: the weights come from the checkpoint)"}

logger = logging.getLogger(__name__)


def log_changes(cfg: Config, former: str | None, path: str) -> None:
    """Log in one block, as "KEY: old -> new", what differs from the config of the run that saved a checkpoint.

    Only the main process logs.

    Args:
        cfg: the config of this run, all of whose values hold, except MODEL.WEIGHT.
        former: YAML text of the config of the run that saved the checkpoint; None: an earlier version saved it.
        path: the checkpoint.
    """
    if not comm.is_main_process():
        return
    if former is None:
        logger.info("%s does not hold the config of its run: what has changed since then is not known.", path)
        return
    try:
        changes = list(find_changes(former, cfg.dump()))
    except ValueError as error:
        logger.warning("The config in %s cannot be read: %s", path, error)
        return
    if changes:
        rows = "\n".join(f"  {key}: {old} -> {new}{_NOTES.get(key, '')}" for key, old, new in changes)
        logger.warning("The config has changed since %s was saved; the new values hold:\n%s", path, Block(rows))


def find_changes(former: str, present: str) -> Iterator[tuple[str, str, str]]:
    """Yield (key, old value, new value) of every key whose value differs between two configs in YAML.

    A key that only one of them has is shown with "(not set)" for the other.

    Raises:
        ValueError: `former` is not the YAML of a config.
    """
    old, new = config_values(former), config_values(present)
    for key in sorted(old.keys() | new.keys()):
        values = [repr(values[key]) if key in values else "(not set)" for values in (old, new)]
        if values[0] != values[1]:
            yield printable(key), values[0], values[1]
