"""Draw detections on an image."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw

from fcos_core.structures.bounding_box import BoxList
from fcos_core.visualize.labels import Labels

# Pixels of a picture's sides. Text needs MIN_SIDE; a picture of MAX_SIDE still fits on a screen.
MIN_SIDE, MAX_SIDE = 320, 2048
# Pixels of the least height of a letter, and the longer side of a large picture in letter heights.
MIN_LETTER, LETTERS = 14, 72
# Pixels of the shorter side of an image that is very long.
MIN_STRIP = 16

# (x1, y1, x2, y2) in pixels of the picture.
_Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Label:
    """A box, and the place, text and colour of its label."""

    box: _Rectangle
    place: _Rectangle
    text: str
    colour: str


_cached_labels = lru_cache(maxsize=4)(Labels)


def draw_detections(
    image: Image.Image, detections: BoxList, category_names: Sequence[str], path: str | Path, threshold: float = 0.3
) -> None:
    """Draw boxes, class names and scores of at least `threshold` on `image` and write it to `path`.

    A small image is enlarged and a large one reduced, see `drawn_size`. A name that is too long is cut in the middle.

    Args:
        image, path: the image, and the file to write, whose ending chooses the format.
        detections: boxes in pixels of `image` with fields "scores" (N,) and "labels" (N,), 1-based.
        category_names: name of each label, from label 1 on; a label beyond them is called "class N".
    """
    labels = _cached_labels(tuple(category_names))
    size = drawn_size(image.size)
    # A very long image stands at the top left of a canvas that has room for text.
    canvas = Image.new("RGB", (max(size[0], MIN_SIDE), max(size[1], MIN_SIDE)), "#808080")
    # Where it enlarges by a whole factor, this filter repeats the pixels.
    canvas.paste(image.resize(size, Image.Resampling.BOX).convert("RGB"))
    draw = ImageDraw.Draw(canvas)
    letter = max(MIN_LETTER, min(max(canvas.size) // LETTERS, canvas.width * MIN_LETTER // MIN_SIDE))
    placed: list[_Label] = []
    for box, label, score in _best_first(detections, threshold, size):
        text = _fitting(labels, labels.name(label), f"{score:.2f}", letter, max(canvas.width // 2, MIN_SIDE))
        place = _place(box, labels.measure(text, letter), size, canvas.size, [other.place for other in placed])
        placed.append(_Label(box, place, text, colour_of(label)))
    # The best detection is drawn last, so that no other one hides it.
    for shown in reversed(placed):
        draw.rectangle(shown.box, outline=shown.colour, width=max(2, letter // 7))
    for shown in reversed(placed):
        draw.rectangle(shown.place, fill=shown.colour)
        labels.write(draw, shown.place[:2], shown.text, letter, text_colour(shown.colour))
    canvas.save(path)


def drawn_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) that an image of `size` is drawn at.

    An image with a side below MIN_SIDE is enlarged by a whole factor; no side is longer than MAX_SIDE. Only an image
    that is more than MAX_SIDE / MIN_STRIP times as long as wide changes its shape.
    """
    factor = min(-(-MIN_SIDE // min(size)), MAX_SIDE / max(size))
    if factor > 1:
        factor = int(factor)
    width, height = (max(round(side * factor), MIN_STRIP) for side in size)
    return width, height


def colour_of(label: int) -> str:
    """Return the colour of a label as "#rrggbb"; labels less than 21 apart differ in hue or in lightness."""
    # Steps of the golden ratio spread any number of hues evenly.
    hue, lightness = label * 0.618034 % 1, (0.7, 0.3, 0.5)[label % 3]
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, 1))


def text_colour(background: str) -> str:
    """Return the colour of text that is readable on `background`."""
    red, green, blue = ImageColor.getrgb(background)[:3]
    # Luma of ITU-R BT.601: how bright the eye sees each primary colour.
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "white"


def _best_first(detections: BoxList, threshold: float, size: tuple[int, int]) -> list[tuple[_Rectangle, int, float]]:
    """Return box, label and score of each detection to draw, with boxes inside a picture of `size`."""
    shown = detections[detections.get_field("scores") >= threshold].resize(size)
    if shown.continuous:
        shown = shown.convert("xywh").with_pixels(continuous=False)  # as "xyxy" a box without width would end before x1
    shown = shown.convert("xyxy")
    boxes = map(tuple, shown.clip_to_image(remove_empty=False).bbox.tolist())
    rows = zip(boxes, shown.get_field("labels").tolist(), shown.get_field("scores").tolist(), strict=True)
    return sorted(rows, key=lambda row: -row[2])


def _place(
    box: _Rectangle, label: tuple[int, int], image: tuple[int, int], canvas: tuple[int, int], taken: list[_Rectangle]
) -> _Rectangle:
    """Return the rectangle for a label of (width, height) inside the canvas, if possible where no other label is.

    It stands beside a very long image, and otherwise above, in or below its box.
    """
    x1, y1, _, y2 = box
    width, height = label
    rows: Sequence[float]
    if image[0] < canvas[0]:
        x1, rows = image[0], range(int(y1), canvas[1], height)
    elif image[1] < canvas[1]:
        rows = range(image[1], canvas[1], height)
    else:
        rows = [y1 - height, y1, y2 + 1] if y2 - y1 >= 2 * height else [y1 - height, y2 + 1, y1]
    x = min(x1, canvas[0] - width)
    inside = [y for y in rows if 0 <= y <= canvas[1] - height] or [canvas[1] - height]
    places = [(x, y, x + width - 1, y + height - 1) for y in inside]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(one: _Rectangle, other: _Rectangle) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _fitting(labels: Labels, name: str, score: str, letter: int, room: int) -> str:
    """Return name and score as a label of at most `room` pixels, with the middle of a long name left out."""
    text = f" {name} {score} "
    # No letter is narrower than a tenth of its height.
    for length in range(min(len(name) - 1, 10 * room // letter), 0, -1):
        if labels.measure(text, letter)[0] <= room:
            break
        text = f" {name[: (length + 1) // 2]}…{name[len(name) - length // 2 :]} {score} "
    return text
