"""The error that a user can mend."""

from typing import Any


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is for reading, not for debugging: what was wrong, where (file, key, image id), what to do.
    Programs under tools/ print it as one line without a traceback.
    """


class LostProcessError(RuntimeError):
    """Another process of the run has gone, or does not answer; what happened to it is for it to say."""


def require(holds: bool, key: str, value: Any, wanted: str) -> None:
    """Raise `InputError` with the config key, its value and what to write instead, unless `holds`."""
    if not holds:
        raise InputError(f"{key} is {value!r}: write {wanted}.")
