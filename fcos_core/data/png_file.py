"""Read the chunks of a PNG file."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Ancillary chunks that say how the pixels are to be seen: significant bits, and the orientation.
_WANTED = (b"sBIT", b"eXIf")


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, place and length of the content of each chunk; move the file's position.

    Args:
        file: a PNG file; the end of one that is cut short ends the chunks.
    """
    place = len(_SIGNATURE)
    file.seek(place)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        yield name, place + 8, length
        place += 12 + length  # length and name, the content, its checksum
        file.seek(place)


def without_metadata(path: str | os.PathLike[str]) -> BinaryIO | None:
    """Return a PNG file in memory with what its pixels need; None if it is another file or has nothing else.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            return None
        pieces, left_out = [_SIGNATURE], False
        for name, place, length in chunks(file):
            file.seek(place - 8)
            piece = file.read(12 + length)
            # The case of the first letter tells whether a decoder needs the chunk.
            if name[:1].isupper() or (name in _WANTED and zlib.crc32(piece[4:-4]) == int.from_bytes(piece[-4:], "big")):
                pieces.append(piece)
            else:
                left_out = True
    return io.BytesIO(b"".join(pieces)) if left_out else None
