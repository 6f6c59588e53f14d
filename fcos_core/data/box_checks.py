"""Find boxes that cannot be learned, and signs that a file gives its boxes in another form than COCO's."""

import logging

import numpy as np

from fcos_core.data.coco_json import COCOTable
from fcos_core.errors import InputError

logger = logging.getLogger(__name__)

# Annotation tools round: a box may pass the edge of its image by this many pixels.
BOX_TOLERANCE = 1


def check_boxes(table: COCOTable, is_train: bool) -> None:
    """Warn of boxes without extent, outside their image or beyond its edge: how many, and an example.

    Boxes of crowds are not looked at, as nothing is learned from them.

    Raises:
        InputError: no box is left to learn although the file has annotations; in a file for testing, crowds alone are
            no error.
    """
    rows = np.flatnonzero(~table.crowd)
    if not len(rows):
        if is_train and len(table.crowd):
            raise InputError(
                f"All {len(table.crowd)} annotations of '{table.ann_file}' have iscrowd 1, and nothing is learned from "
                "crowds: write iscrowd 0 for boxes of single objects."
            )
        return
    images = np.searchsorted(table.offsets, rows, side="right") - 1
    boxes, sizes = table.boxes[rows], table.sizes[images]
    faults = box_faults(boxes, sizes)
    if not _usable(boxes, sizes).any():
        counts = ", ".join(f"{mask.sum()} {fault}" for fault, (mask, _) in faults.items() if mask.any())
        advice = _other_form(boxes, sizes) or "Give x, y, width and height in pixels of the image."
        raise InputError(
            f"None of the {len(rows)} boxes of '{table.ann_file}' can be learned, such as {_example(table, rows[0])}: "
            f"{counts}. {advice}"
        )
    for fault, (mask, effect) in faults.items():
        if mask.any():
            example = _example(table, rows[np.argmax(mask)])
            logger.warning("%d boxes of '%s' %s, such as %s: %s", mask.sum(), table.ann_file, fault, example, effect)


def _usable(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return (M,) bool: boxes of which `COCODataset.ground_truth` leaves something."""
    boxes, last = boxes.astype(np.float32), sizes - 1
    first = np.clip(boxes[:, :2], 0, last)
    second = np.clip(boxes[:, :2] + np.maximum(boxes[:, 2:] - 1, 0), 0, last)
    usable: np.ndarray = (second > first).all(axis=1)
    return usable


def box_faults(boxes: np.ndarray, sizes: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    """Return the faults that boxes can have, each with the mask (M,) of the boxes that have it, and its consequence.

    Args:
        boxes: (M, 4) as in a COCO file.
        sizes: (M, 2) width and height of the image of each.
    """
    usable = _usable(boxes, sizes)
    flat, thin = (boxes[:, 2:] == 0).any(axis=1), (boxes[:, 2:] <= 1).any(axis=1)
    beyond = usable & ~_inside(boxes, sizes, "x, y, width, height")
    left_out = "they are left out of training, but metrics count them."
    form = _other_form(boxes, sizes) if beyond.any() else ""
    return {
        "have no width or no height": (flat, left_out),
        "are at most 1 pixel wide or high": (thin & ~flat, left_out),
        "lie outside their image": (~usable & ~thin, left_out),
        "pass the edge of their image": (beyond, f"training cuts them off there. {form}".strip()),
    }


def _inside(boxes: np.ndarray, sizes: np.ndarray, form: str) -> np.ndarray:
    """Return (M,) bool: boxes that have an extent and lie in their image if their four numbers mean `form`."""
    a, b = boxes[:, :2], boxes[:, 2:]
    first, second = {
        "x, y, width, height": (a, a + b),
        "x1, y1, x2, y2": (a, b),
        "center x, center y, width, height": (a - b / 2, a + b / 2),
    }[form]
    inside = (first >= -BOX_TOLERANCE) & (second > first) & (second <= sizes + BOX_TOLERANCE)
    return inside.all(axis=1)


def _other_form(boxes: np.ndarray, sizes: np.ndarray) -> str:
    """Return a sentence about the form in which most boxes lie in their images, or "" if that is COCO's."""
    wanted = "COCO's bbox is x, y, width, height in pixels: convert them."
    if (np.abs(boxes) <= 1).all() and boxes.any():
        return f"No number is above 1, as if they were shares of the image's width and height; {wanted}"
    own = _inside(boxes, sizes, "x, y, width, height").sum()
    others = ("x1, y1, x2, y2", "center x, center y, width, height")
    fitting = {form: _inside(boxes, sizes, form).sum() for form in others}
    most = max(fitting.values())
    if most <= own:
        return ""
    forms = " or as ".join(form for form in others if fitting[form] == most)
    return (
        f"{most} of {len(boxes)} boxes would fit into their images as {forms}, {own} as COCO's x, y, width, height: "
        "if they are meant so, convert them."
    )


def _example(table: COCOTable, row: int) -> str:
    image = np.searchsorted(table.offsets, row, side="right") - 1
    width, height = table.sizes[image]
    box = ", ".join(f"{number:.10g}" for number in table.boxes[row])
    return (
        f"annotation {table.annotation_ids[row]} of image {table.image_ids[image]} ({width} x {height}), bbox [{box}]"
    )
