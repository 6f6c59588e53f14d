"""Check the fields of JSON objects in a user's files, and say what is wrong with them."""

import reprlib
from collections.abc import Iterator
from typing import Any, TypeGuard

from fcos_core.errors import InputError

# From here on float32, the type of boxes, leaves out whole numbers.
MOST_PIXELS = 2**24

Entry = dict[str, Any]

_KINDS = {str: "text", bool: "true or false", type(None): "null", list: "a list", dict: "an object"}
_short = reprlib.Repr()
_short.maxstring = 60


def numbered_entries(value: object, key: str, file: str) -> Iterator[tuple[int, Entry]]:
    """Yield the objects of a list, as `read_members` gave it under `key`, numbered from 1.

    Raises:
        InputError: the value is not a list, or an element is not an object.
    """
    if not isinstance(value, Iterator):
        raise InputError(f"'{file}' has '{key}' that is not a list: give a COCO file, where '{key}' is a list.")
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, dict):
            raise InputError(
                f"'{file}': entry {number} of '{key}' is {shown(entry)}: each entry must be an object with fields."
            )
        yield number, entry


def read_integer(entry: Entry, key: str, owner: str, file: str, least: int | None = None) -> int:
    """Return the integer under `key`; with `least`, one from there to MOST_PIXELS.

    Raises:
        InputError: the value is another one; the message says that it is `owner`'s.
    """
    value = entry.get(key)
    if not is_integer(value) or (least is not None and not least <= value <= MOST_PIXELS):
        wanted = "that fits into 64 bits" if least is None else f"of at least {least} and at most {MOST_PIXELS}"
        raise InputError(f"'{file}': {owner} {state(entry, key)}: give an integer {wanted}.")
    return int(value)


def read_text(entry: Entry, key: str, owner: str, file: str) -> str:
    """Return the text under `key`; raise InputError, which says that it is `owner`'s, for an empty or other value."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"'{file}': {owner} {state(entry, key)}: give a text that is not empty.")
    return value


def is_integer(value: object) -> TypeGuard[int | float]:
    """Return whether a JSON value is a whole number that fits into int64, such as 7 or 7.0."""
    # True and False, of the type bool, are not.
    return (type(value) is int or (type(value) is float and value.is_integer())) and abs(value) < 2**63


def box_fault(box: object) -> str | None:
    """Return what is wrong with a box as the end of a sentence that begins with the box, or None.

    A box is four numbers, x, y, width and height in pixels.
    """
    if not isinstance(box, list) or len(box) != 4:
        return ": give four numbers, x, y, width and height in pixels"
    if not {*map(type, box)} <= {int, float}:
        wrong = next(value for value in box if type(value) not in (int, float))
        return f", where {shown(wrong)} is {_KINDS[type(wrong)]}: give four numbers, x, y, width and height in pixels"
    # The comparison is False for NaN.
    if not all(abs(value) <= MOST_PIXELS for value in box):
        return f", which is not finite or beyond {MOST_PIXELS} pixels: give its true x, y, width and height"
    if box[2] < 0 or box[3] < 0:
        return " of negative width or height: write it as x, y, width and height"
    return None


def state(entry: Entry, key: str) -> str:
    """Return "has no KEY" or "has KEY VALUE", with the kind of the value if it is not a number."""
    if key not in entry:
        return f"has no {key}"
    kind = _KINDS.get(type(entry[key]))
    return f"has {key} {shown(entry[key])}" + (f", which is {kind}" if kind else "")


def shown(value: object) -> str:
    """Return `value` as a message shows it: on one line and cut short."""
    return _short.repr(value)
