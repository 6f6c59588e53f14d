"""Bring the boxes of an annotated image into pixels of its file, and check them."""

from dataclasses import dataclass

from fcos_core.data.box_checks import BOX_TOLERANCE
from fcos_core.data.formats.source import AnnotatedImage, Box, Problem, place
from fcos_core.data.image_facts import ImageFacts

Edges = tuple[float, float, float, float]

# EXIF orientation to how a point of the upright picture is found in the stored one: with x and y exchanged, then
# counted from the right, then from the bottom.
_STORED = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True)
class MeasuredImage:
    """An image that was checked, and its boxes in pixels of the picture that `read_image` returns for `size`.

    Attributes:
        source: the annotated image.
        facts: of its file.
        size: (width, height) in pixels, for the COCO file.
        boxes: inside the image, with an extent.
    """

    source: AnnotatedImage
    facts: ImageFacts
    size: tuple[int, int]
    boxes: list[Box]


def measure(image: AnnotatedImage, facts: ImageFacts, problems: list[Problem]) -> MeasuredImage | None:
    """Check size and boxes of an image; return None, with a problem, if it cannot be used.

    A box that goes beyond the image is clipped. Boxes without extent, outside the image or there twice are left out.
    """
    size = image.size or facts.upright
    if size not in (facts.stored, facts.upright):
        fault = "the annotation is about {}x{} pixels, but {} has {}x{}"
        problems.append(Problem(f"{image.file}", fault.format(*size, image.path, *facts.stored), "image"))
        return None
    # An annotation in pixels of the stored picture gives its size; without a size it is about what viewers show.
    turned = size == facts.stored and facts.orientation > 1
    if turned and image.size is not None and size == facts.upright:
        fault = (
            f"EXIF turns {image.path.name} (orientation {facts.orientation}), and its annotation gives no hint if it"
        )
        problems.append(Problem(f"{image.file}", f"{fault} is about the turned picture; the stored one is assumed"))
    boxes: list[Box] = []
    seen: set[tuple[str, Edges]] = set()
    for box in image.boxes:
        edges = _pixels(box.edges, size) if image.in_shares else box.edges
        if turned and image.size is None:
            edges = _in_stored(edges, facts)
        kept = _checked(box, edges, size, image, problems)
        if kept is None:
            continue
        if (kept.name, kept.edges) in seen:
            problems.append(Problem(place(image.file, box.line), f"the box of {box.name!r} stands here twice", "box"))
            continue
        seen.add((kept.name, kept.edges))
        boxes.append(kept)
    return MeasuredImage(image, facts, size, boxes)


def _pixels(shares: Edges, size: tuple[int, int]) -> Edges:
    width, height = size
    return shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height


def _in_stored(edges: Edges, facts: ImageFacts) -> Edges:
    """Return the edges in the stored picture of a box in the upright one."""
    exchange, from_right, from_bottom = _STORED[facts.orientation]
    width, height = facts.stored
    x1, y1, x2, y2 = edges
    if exchange:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if from_right:
        x1, x2 = width - x2, width - x1
    if from_bottom:
        y1, y2 = height - y2, height - y1
    return x1, y1, x2, y2


def _checked(
    box: Box, edges: Edges, size: tuple[int, int], image: AnnotatedImage, problems: list[Problem]
) -> Box | None:
    """Return the box clipped to the image; None if nothing of it is left."""
    where, shown = place(image.file, box.line), f"{box.name!r} ({', '.join(f'{edge:.6g}' for edge in edges)})"
    x1, y1, x2, y2 = edges
    if x2 < x1 or y2 < y1:
        problems.append(Problem(where, f"the corners of {shown} are in the wrong order; they are exchanged"))
        x1, y1, x2, y2 = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    (width, height), beyond = size, max(-x1, -y1, x2 - size[0], y2 - size[1])
    kept = (min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height))
    if x1 == x2 or y1 == y2:
        problems.append(Problem(where, f"the box of {shown} has no extent", "box"))
        return None
    if kept[0] >= kept[2] or kept[1] >= kept[3]:
        hint = "; labels are shares of width and height, from 0 to 1" if image.in_shares else ""
        problems.append(Problem(where, f"the box of {shown} is outside its image of {width}x{height}{hint}", "box"))
        return None
    if beyond > BOX_TOLERANCE:
        problems.append(Problem(where, f"the box of {shown} goes beyond its image of {width}x{height}; it is clipped"))
    return Box(box.name, kept, box.line, box.is_ignored)
