"""Show text that comes from files, names and keys without letting it command the terminal."""

import re
from typing import Any, TextIO

# What `without_secrets` writes in the place of a secret.
HIDDEN = "***"
_URL = re.compile(r"[a-z][a-z0-9+.-]*:/\S*?(?=['\")\],.;:]*(?:\s|$))", re.IGNORECASE)
# User and password of a URL. In the second form the password holds characters that a URL must not: after the colon
# stands neither a port nor the end of the URL.
_LOGIN = re.compile(r"(?<=:/)(/*)(?:[^\s/?#]*@|[^\s/?#:@\[]*:(?!\d*(?:[\s/?#'\",.;)]|$)).*@)")
_QUERY_VALUE = re.compile(r"(?<==)[^&]+|(?<=&)[^&=]+(?=&|$)|^[^&=]+(?=&|$)")
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

    Secrets in URLs are hidden. The line breaks of a `Block` stay. Any other printable character stays, in every script.
    """
    text = str(value)
    if isinstance(value, Block):
        return "\n".join(printable(line) for line in text.split("\n"))
    return without_secrets(_UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text))


def without_secrets(text: str) -> str:
    """Hide the login and the values of the query in every URL of `text`: both may be passwords.

    >>> without_secrets("from https://me:secret@host/w.pth?token=1234&dl=1#w.pth")
    'from https://***@host/w.pth?token=***&dl=***#w.pth'
    """
    if ":/" not in text:
        return text
    return _URL.sub(_without_query_values, _LOGIN.sub(rf"\1{HIDDEN}@", text))


def _without_query_values(match: re.Match[str]) -> str:
    place, mark, rest = match[0].partition("?")
    query, hash_sign, name = rest.partition("#")
    return place + mark + _QUERY_VALUE.sub(HIDDEN, query) + hash_sign + name


def escape_unencodable(stream: TextIO) -> None:
    """Let `stream` write characters that its encoding lacks as escapes, where it would raise UnicodeEncodeError."""
    # A test or a notebook may have put another object in the place of sys.stdout.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
