"""Read a large JSON file in pieces, so that memory holds one piece at a time.

The ijson package parses one section of the object faster, but needs a pass over the file for each section and
cannot tell an empty section from a missing one.
"""

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from fcos_core.errors import InputError

_CHUNK = 1 << 20  # bytes read at a time
# How files begin that are often found in the place of a JSON file, the longest first, and what they are.
_OTHER_KINDS = [
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"),
    (b"PK\x03\x04", "is a zip archive: unpack it with unzip"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it with gunzip"),
]
# The end of a piece can cut a word or an escape such as \ud83d\ude00 in two; none is longer than this.
_LONGEST_WORD = 12
_SPACE = frozenset(" \t\n\r")
_AFTER_VALUE = _SPACE | frozenset(",:]}")


class BrokenJSONError(ValueError):
    """The text is not JSON; the message gives line, column and character in the file, and the fault."""


class _RepeatedKeyError(Exception):
    """A key stands twice in an object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the dict of an object; where a key stands twice, nobody knows which value is meant."""
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in members if keys.count(key) > 1))
    return members


_decode = json.JSONDecoder(object_pairs_hook=_object).raw_decode


@contextmanager
def explain_broken_json(kind: str, path: str) -> Iterator[None]:
    """Raise `InputError` for whatever stops the block's reading of a JSON file, the limits of the machine included.

    Args:
        kind: what the message calls the file, such as "annotation file".
        path: the file.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"The {kind} '{path}' {other_kind(path) or _fault(error)}.") from error


def read_members(file: BinaryIO) -> Iterator[tuple[str | None, Any]]:
    """Yield (key, value) of each member of the object in `file`, in the file's order.

    A value that is an array comes as an iterator of its elements. Elements that the caller does not take before it
    asks for the next member are skipped. A key that appears twice is yielded twice. A file that holds another value
    than an object counts as one member with the key None.

    Args:
        file: JSON in UTF-8, UTF-16 or UTF-32, as `json.loads` takes it.

    Raises:
        BrokenJSONError: the file is not one JSON value, has an integer of more digits than Python reads, or
            an object within a value has a key twice.
        UnicodeDecodeError: the bytes are not text.
        RecursionError, MemoryError: a value is nested too deep or too large.
    """
    text = _Window(file)
    if text.peek() != "{":
        yield from _member(None, text)
    else:
        text.take("{")
        if text.peek() == "}":
            text.take("}")
        else:
            yield from _members(text)
    if text.peek():
        raise text.broken("Extra data")


def _members(text: "_Window") -> Iterator[tuple[str | None, Any]]:
    while True:
        if text.peek() != '"':
            raise text.broken("Expecting property name enclosed in double quotes")
        key = text.value()
        text.take(":")
        yield from _member(key, text)
        if text.take(",}") == "}":
            return


def _member(key: str | None, text: "_Window") -> Iterator[tuple[str | None, Any]]:
    if text.peek() != "[":
        yield key, text.value()
        return
    elements = _elements(text)
    yield key, elements
    for _ in elements:
        pass


def _elements(text: "_Window") -> Iterator[Any]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        yield text.value()
        if text.take(",]") == "]":
            return


class _Window:
    """The part of a text that is being read; parts that have been passed are dropped."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        encoding = json.detect_encoding(file.read(4))
        file.seek(0)
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="surrogatepass")
        self._text, self._at, self._ended = "", 0, False
        # What has been dropped: characters, whole lines, and characters of the line that goes on.
        self._dropped, self._lines, self._columns = 0, 0, 0

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end of the text."""
        while True:
            while self._text[self._at : self._at + 1] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, wanted: str) -> str:
        """Pass the next character, which must be one of `wanted`, and return it."""
        character = self.peek()
        if not character or character not in wanted:
            raise self.broken(f"Expecting {' or '.join(map(repr, wanted))}")
        self._at += 1
        return character

    def value(self) -> Any:
        """Pass the next value and return it."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error) or not self._more():
                    raise self.broken(error.msg, error.pos) from error
                continue
            except _RepeatedKeyError as error:
                raise self.broken(f"The key {str(error)[:60]!r} stands twice in the value that begins") from error
            except ValueError as error:
                raise self.broken("An integer has too many digits in the value that begins") from error
            # A number that the end of the window cuts in two reads as a shorter number.
            if self._text[end : end + 1] in _AFTER_VALUE or not self._more():
                self._at = end
                return value

    def broken(self, message: str, at: int | None = None) -> BrokenJSONError:
        """Return the error for a fault at place `at` of the window; None: at the next character."""
        fault = json.JSONDecodeError(message, self._text, self._at if at is None else at)
        column = fault.colno + (self._columns if fault.lineno == 1 else 0)
        place = f"line {self._lines + fault.lineno}, column {column} (character {self._dropped + fault.pos})"
        return BrokenJSONError(f"{message} at {place}")

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Return whether the end of the window, rather than a fault of the file, may have caused `error`."""
        return error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_WORD

    def _more(self) -> bool:
        """Drop the passed part and read the next piece; return False at the end of the file."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        newlines = self._text.count("\n", 0, self._at)
        self._dropped += self._at
        self._lines += newlines
        self._columns = self._at - self._text.rfind("\n", 0, self._at) - 1 + (0 if newlines else self._columns)
        # For a long value, double the size of a piece each time, so that the time stays linear in its length.
        data = self._file.read(max(_CHUNK, len(rest)))
        self._ended = not data
        self._text, self._at = rest + self._decoder.decode(data, final=self._ended), 0
        return True


def other_kind(path: str) -> str:
    """Return what stands in the place of the file, and the remedy, as the end of a sentence; "" if nothing known."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(_OTHER_KINDS[0][0]))
    except OSError:
        return ""
    if not start:
        return "is empty: copy or export it again"
    return next((kind for beginning, kind in _OTHER_KINDS if start.startswith(beginning)), "")


def _fault(error: Exception) -> str:
    """Return what is wrong with a file that raised `error`, and the remedy, as the end of a sentence."""
    if isinstance(error, RecursionError):
        return "has lists or objects nested too deep to be read: export it without them"
    if isinstance(error, MemoryError):
        return "does not fit into memory: split it, or use a machine with more"
    if isinstance(error, BrokenJSONError):
        return f"is not valid JSON: {error}. It may be cut short or edited by hand: copy or export it again"
    return f"cannot be read as JSON: {error}. Copy or export it again"
