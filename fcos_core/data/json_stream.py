"""Read a large JSON object in pieces, so that memory holds one piece at a time.

The ijson package parses one section of the object faster, but needs a pass over the file for each section and
cannot tell an empty section from a missing one.
"""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

_CHUNK = 1 << 20  # bytes read at a time
_SPACE = frozenset(" \t\n\r")
_AFTER_VALUE = _SPACE | frozenset(",:]}")
_decode = json.JSONDecoder().raw_decode


def read_members(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of each member of the object in `file`, in the file's order.

    A value that is an array comes as an iterator of its elements. Elements that the caller does not take before it
    asks for the next member are skipped. A key that appears twice is yielded twice.

    Args:
        file: JSON in UTF-8, UTF-16 or UTF-32, as `json.loads` takes it.

    Raises:
        json.JSONDecodeError: the file is not one JSON object. The error's positions are relative to a piece of the
            file, so they are of no use.
        UnicodeDecodeError: the bytes are not text.
    """
    text = _Window(file)
    text.take("{")
    if text.peek() == "}":
        text.take("}")
    else:
        yield from _members(text)
    if text.peek():
        text.fail("Extra data")


def _members(text: "_Window") -> Iterator[tuple[str, Any]]:
    while True:
        if text.peek() != '"':
            text.fail("Expecting property name enclosed in double quotes")
        key = text.value()
        text.take(":")
        if text.peek() == "[":
            elements = _elements(text)
            yield key, elements
            for _ in elements:
                pass
        else:
            yield key, text.value()
        if text.take(",}") == "}":
            return


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
            self.fail(f"Expecting {' or '.join(map(repr, wanted))}")
        self._at += 1
        return character

    def value(self) -> Any:
        """Pass the next value and return it."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number that the end of the window cuts in two reads as a shorter number.
            if self._text[end : end + 1] in _AFTER_VALUE or not self._more():
                self._at = end
                return value

    def fail(self, message: str) -> NoReturn:
        raise json.JSONDecodeError(message, self._text, self._at)

    def _more(self) -> bool:
        """Drop the passed part and read the next piece; return False at the end of the file."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        # For a long value, double the size of a piece each time, so that the time stays linear in its length.
        data = self._file.read(max(_CHUNK, len(rest)))
        self._ended = not data
        self._text, self._at = rest + self._decoder.decode(data, final=self._ended), 0
        return True
