"""Errors that the user can correct, and the check that raises them."""

from typing import Any

from fcos_core.utils.text import printable


class InputError(ValueError):
    """Error in the user's input: config, data, weights or machine; programs under tools/ print no traceback for it.

    The message names the fault, its place (file, key, image id) and the remedy. Names from files may hold anything, so
    the message is shown as one printable line.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class LostProcessError(RuntimeError):
    """Another rank exited or does not answer; see its log."""


def require(valid: bool, key: str, value: Any, wanted: str) -> None:
    """Raise `InputError` with the config key, its value and the wanted value unless `valid`."""
    if not valid:
        raise InputError(f"{key} is {value!r}: write {wanted}.")
