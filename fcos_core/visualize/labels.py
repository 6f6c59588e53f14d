"""Write class names of any script on pictures, each character in a font that has it."""

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from matplotlib import get_data_path
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

logger = logging.getLogger(__name__)

# Covers Latin, Greek, Cyrillic, Arabic, Hebrew and more; every installation of matplotlib has it.
_DEJAVU = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
# Invisible characters that set the direction of the text behind them: "0.61" would be drawn as "16.0".
_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


class Labels:
    """Class names as they can be drawn on this machine, and the fonts that draw them.

    A name with a character that no font has becomes "class N", and one log line says which font to install.

    Args:
        names: name of each label, from label 1 on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        wanted = [_one_line(name) for name in names]
        self._files = find_fonts({char for name in wanted for char in name if _has_shape(char)})
        self._names = [name if name and all(map(self._can_draw, name)) else None for name in wanted]
        lost = [label for label, name in enumerate(wanted, 1) if name and not self._names[label - 1]]
        if lost:
            logger.warning(
                "%d of %d class names, such as '%s', are drawn as 'class %d', because no font of this machine has all "
                "their characters: install one, such as fonts-noto-cjk (Chinese, Japanese, Korean) or fonts-noto-core "
                "(other scripts) of Debian and Ubuntu.",
                *(len(lost), len(names), wanted[lost[0] - 1], lost[0]),
            )

    def name(self, label: int) -> str:
        """Return the name of `label` in one line, or "class N" where it has none that can be drawn."""
        known = self._names[label - 1] if 1 <= label <= len(self._names) else None
        return known or f"class {label}"

    def measure(self, text: str, size: int) -> tuple[int, int]:
        """Return the width and height in pixels of a line of `text` in fonts of `size` pixels."""
        parts = self._parts(text, size)
        ascent, descent = _extents(parts)
        return round(sum(font.getlength(part) for font, part in parts)), ascent + descent

    def write(self, draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, size: int, fill: str) -> None:
        """Write a line of text whose top left corner is `corner`."""
        parts = self._parts(text, size)
        x, baseline = corner[0], corner[1] + _extents(parts)[0]
        for font, part in parts:
            draw.text((x, baseline), part, fill=fill, font=font, anchor="ls")
            x += font.getlength(part)

    def _can_draw(self, char: str) -> bool:
        return char in self._files or not _has_shape(char)

    def _parts(self, text: str, size: int) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Split `text` where the font changes; a character without a shape of its own stays with the one before."""
        files: list[str] = []
        for char in text:
            own = self._files.get(char, _DEJAVU)
            files.append(own if _has_shape(char) or not files else files[-1])
        pieces = groupby(zip(files, text, strict=True), key=lambda pair: pair[0])
        return [(_font(file, size), "".join(char for _, char in pairs)) for file, pairs in pieces]


def find_fonts(characters: set[str]) -> dict[str, str]:
    """Find a font file for each character, DejaVu Sans first, then the machine's; leave out those that no font has."""
    found: dict[str, str] = {}
    for file in _font_files():
        missing = characters - found.keys()
        if not missing:
            break
        covered = _covered(file)
        found.update((char, file) for char in missing if ord(char) in covered)
    return found


def _font_files() -> Iterator[str]:
    yield _DEJAVU
    # Upright fonts of normal weight come first; by name, so that every run draws the same.
    yield from sorted(findSystemFonts(), key=lambda file: ("regular" not in Path(file).stem.lower(), file))


def _covered(file: str) -> set[int]:
    """Return the code points that PIL can draw with `file`."""
    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):
        return set()  # A damaged font of the machine is as good as none.
    # PIL cannot scale bitmaps such as colour emoji. LastResort of macOS draws the same box for every character.
    return set(font.get_charmap()) if font.scalable and "LastResort" not in file else set()


def _has_shape(char: str) -> bool:
    """Return False for spaces, marks that are drawn on the character before, and invisible joiners."""
    return unicodedata.category(char) not in ("Zs", "Mn", "Mc", "Me", "Cf")


def _one_line(name: str) -> str:
    """Replace line breaks and control characters by spaces, and leave out what would turn the score around too."""
    kept = (char for char in name if unicodedata.bidirectional(char) not in _DIRECTIONS)
    return " ".join("".join(" " if unicodedata.category(char) == "Cc" else char for char in kept).split())


def _extents(parts: list[tuple[ImageFont.FreeTypeFont, str]]) -> tuple[int, int]:
    """Return the pixels above and below the line that the text stands on."""
    ascents, descents = zip(*(font.getmetrics() for font, _ in parts), strict=True)
    return max(ascents), max(descents)


@lru_cache(maxsize=64)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
