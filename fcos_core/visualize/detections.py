"""Draw detections on an image."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

import torch
from PIL import Image, ImageColor, ImageDraw

from fcos_core.structures.bounding_box import BoxList
from fcos_core.visualize.labels import Labels

# Pixels of a picture's sides. Text needs MIN_SIDE; a picture of MAX_SIDE still fits on a screen.
MIN_SIDE, MAX_SIDE = 320, 2048
# Pixels of the least height of a letter, and the longer side of a large picture in letter heights.
MIN_LETTER, LETTERS = 14, 72
# The median height of the boxes in letter heights, at least.
BOX_LETTERS = 5
# Pixels of the shorter side of an image that is very long.
MIN_STRIP = 16

# (x1, y1, x2, y2) in pixels of the picture.
_Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Label:
    """A box and its colour, and the place and the picture of its label."""

    box: _Rectangle
    colour: str
    place: _Rectangle
    picture: Image.Image


_cached_labels = lru_cache(maxsize=4)(Labels)


def draw_detections(
    image: Image.Image, detections: BoxList, category_names: Sequence[str], path: str | Path, threshold: float = 0.3
) -> None:
    """Write a picture as `annotated` draws it to `path`, whose ending chooses the format."""
    # The default quality of JPEG blurs thin coloured lines.
    annotated(image, detections, category_names, threshold).save(path, quality=95)


def annotated(
    image: Image.Image,
    detections: BoxList,
    category_names: Sequence[str],
    threshold: float = 0.0,
    keep_size: bool = False,
) -> Image.Image:
    """Return an RGB picture of `image` with boxes, class names and scores of at least `threshold`.

    A small image is enlarged and a large one reduced, see `drawn_size`. A name that is too long is cut in the middle.

    Args:
        image: the image, which stays as it is.
        detections: boxes in pixels of `image` with fields "scores" (N,) and "labels" (N,), 1-based; the number in a
            field "track_ids" (N,) is drawn if it is not negative. Without scores, as those of a dataset, all are drawn.
        category_names: name of each label, from label 1 on; a label beyond them is called "class N".
        keep_size: the picture has the size of the image, as the frames of a video must.
    """
    labels = _cached_labels(tuple(category_names))
    has_scores = detections.has_field("scores")
    if not has_scores:
        detections = detections[:]
        detections.add_field("scores", torch.ones(len(detections)))
        threshold = 0.0
    size = image.size if keep_size else drawn_size(image.size)
    canvas = image.copy().convert("RGB") if keep_size else _canvas(image, size)
    draw = ImageDraw.Draw(canvas)
    rows = _best_first(detections, threshold, size)
    # Labels that are as large as many small boxes would hide them.
    height = median(box[3] - box[1] for box, *_ in rows) if rows else 0
    letter = min(max(canvas.size) // LETTERS, canvas.width * MIN_LETTER // MIN_SIDE, int(height) // BOX_LETTERS)
    letter = max(MIN_LETTER, letter)
    placed: list[_Label] = []
    for box, label, score, track in rows:
        end = f"#{track} " * (track >= 0) + f"{score:.2f} " * has_scores
        text = _fitting(labels, labels.name(label), end, letter, max(canvas.width // 2, MIN_SIDE))
        picture = _label_picture(labels, text, letter, colour_of(label))
        place = _place(box, picture.size, size, canvas.size, [other.place for other in placed])
        placed.append(_Label(box, colour_of(label), place, picture))
    # The best detection is drawn last, so that no other one hides it.
    for shown in reversed(placed):
        draw.rectangle(shown.box, outline=shown.colour, width=max(2, letter // 7))
    for shown in reversed(placed):
        canvas.paste(shown.picture, (round(shown.place[0]), round(shown.place[1])))
    return canvas


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


def _canvas(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image resized to `size`, at the top left of a canvas that has room for text if it is very long."""
    canvas = Image.new("RGB", (max(size[0], MIN_SIDE), max(size[1], MIN_SIDE)), "#808080")
    # Where it enlarges by a whole factor, this filter repeats the pixels.
    canvas.paste(image.resize(size, Image.Resampling.BOX).convert("RGB"))
    return canvas


def _best_first(
    detections: BoxList, threshold: float, size: tuple[int, int]
) -> list[tuple[_Rectangle, int, float, int]]:
    """Return box, label, score and track (-1: none) of each detection to draw, inside a picture of `size`."""
    shown = detections[detections.get_field("scores") >= threshold].resize(size)
    if shown.continuous:
        shown = shown.convert("xywh").with_pixels(continuous=False)  # as "xyxy" a box without width would end before x1
    shown = shown.convert("xyxy")
    boxes = map(tuple, shown.clip_to_image(remove_empty=False).bbox.tolist())
    tracks = shown.get_field("track_ids").tolist() if shown.has_field("track_ids") else [-1] * len(shown)
    rows = zip(boxes, shown.get_field("labels").tolist(), shown.get_field("scores").tolist(), tracks, strict=True)
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


# The frames of a video repeat most labels, and to write one takes ten times as long as to paste it.
@lru_cache(maxsize=1024)
def _label_picture(labels: Labels, text: str, letter: int, colour: str) -> Image.Image:
    picture = Image.new("RGB", labels.measure(text, letter), colour)
    labels.write(ImageDraw.Draw(picture), (0, 0), text, letter, text_colour(colour))
    return picture


@lru_cache(maxsize=1024)
def _fitting(labels: Labels, name: str, score: str, letter: int, room: int) -> str:
    """Return name and score as a label of at most `room` pixels, with the middle of a long name left out.

    The score is empty or ends with a space.
    """
    text = f" {name} {score}"
    # No letter is narrower than a tenth of its height.
    for length in range(min(len(name) - 1, 10 * room // letter), 0, -1):
        if labels.measure(text, letter)[0] <= room:
            break
        text = f" {name[: (length + 1) // 2]}…{name[len(name) - length // 2 :]} {score}"
    return text
