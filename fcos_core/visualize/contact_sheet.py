"""Draw annotated images side by side."""

from collections.abc import Sequence

from PIL import Image

from fcos_core.structures.bounding_box import BoxList
from fcos_core.visualize.detections import annotated

# Pixels of a cell, large enough for the smallest letters that are drawn, and of the space between two.
_CELL, _GAP, _COLUMNS = (600, 450), 8, 3


def contact_sheet(images: Sequence[tuple[Image.Image, BoxList]], category_names: Sequence[str]) -> Image.Image:
    """Return one RGB picture of all images, at least one, with their boxes and class names.

    Args:
        images: an image each, and its boxes in pixels with the field "labels", (N,) 1-based.
        category_names: name of each label, from label 1 on.
    """
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    size = (columns * (_CELL[0] + _GAP) + _GAP, rows * (_CELL[1] + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "#303030")
    for number, (image, boxes) in enumerate(images):
        scale = min(_CELL[0] / image.width, _CELL[1] / image.height)
        shown = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        # Enlarged pixels stay sharp; a photograph that is reduced is smoothed.
        method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        drawn = annotated(image.resize(shown, method), boxes.resize(shown), category_names, keep_size=True)
        row, column = divmod(number, columns)
        left, top = column * (_CELL[0] + _GAP) + _GAP, row * (_CELL[1] + _GAP) + _GAP
        sheet.paste(drawn, (left + (_CELL[0] - shown[0]) // 2, top + (_CELL[1] - shown[1]) // 2))
    return sheet
