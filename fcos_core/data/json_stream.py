"""A large JSON object read in pieces, so that memory holds one piece at a time."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

_CHUNK = 1 << 20  # bytes read at a time
_SPACE = frozenset(" \t\n\r")
_AFTER_VALUE = _SPACE | frozenset(",:]}")
_decode = json.JSONDecoder().raw_decode


def read_members(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """(key, value) of each member of the object that `file` holds, in the file's order.

    A value that is an array comes as an iterator of its elements; what of it is not taken before the next member is
    asked for is skipped. Where a key stands twice, both come.

    Args:
        file: text in UTF-8, UTF-16 or UTF-32, as `json.loads` takes it.

    Raises:
        json.JSONDecodeError: the text is not one JSON object; positions count from somewhere in the file.
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
    """The part of a text that is being read; earlier parts are forgotten."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        encoding = json.detect_encoding(file.read(4))
        file.seek(0)
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="surrogatepass")
        self._text, self._at, self._ended = "", 0, False

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._text[self._at : self._at + 1] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, wanted: str) -> str:
        """Pass the next character, which is one of `wanted`."""
        character = self.peek()
        if not character or character not in wanted:
            self.fail(f"Expecting {' or '.join(map(repr, wanted))}")
        self._at += 1
        return character

    def value(self) -> Any:
        """Pass the next value."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number cut by the window's end reads as a shorter one.
            if self._text[end : end + 1] in _AFTER_VALUE or not self._more():
                self._at = end
                return value

    def fail(self, message: str) -> None:
        raise json.JSONDecodeError(message, self._text, self._at)

    def _more(self) -> bool:
        """Forget what has been passed and read on; False at the end. A long value doubles what is read at a time."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        data = self._file.read(max(_CHUNK, len(rest)))
        self._ended = not data
        self._text, self._at = rest + self._decoder.decode(data, final=self._ended), 0
        return True
