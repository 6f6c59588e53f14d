"""Show text that comes from files, names and keys without letting it command the terminal."""

import re
from typing import Any, TextIO

# Control characters (line breaks and escape sequences among them), invisible and direction-changing format characters,
# and lone surrogates, which stand for the bytes of a file name that is not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


class Block(str):
    """Text of several lines whose line breaks are meant, for `printable`."""

    __slots__ = ()


def printable(value: Any) -> str:
    r"""Convert `value` to text and write what could command a terminal as escapes such as \n, \x1b and \u202e.

    The line breaks of a `Block` stay. Any other printable character stays, in every script.
    """
    text = str(value)
    if isinstance(value, Block):
        return "\n".join(printable(line) for line in text.split("\n"))
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_unencodable(stream: TextIO) -> None:
    """Let `stream` write characters that its encoding lacks as escapes, where it would raise UnicodeEncodeError."""
    # A test or a notebook may have put another object in the place of sys.stdout.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
