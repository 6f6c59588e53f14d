"""Pictures of detections."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision.io import write_png
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import draw_bounding_boxes

from fcos_core.structures.bounding_box import BoxList

# Distinguishable colours that repeat after eight classes.
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#f032e6")


def draw_detections(
    image: Image.Image, detections: BoxList, category_names: Sequence[str], path: str | Path, threshold: float = 0.5
) -> None:
    """Write `image` with its boxes, class names and scores as a PNG.

    Args:
        image: RGB.
        detections: boxes in pixels of `image` with fields "scores" and "labels" (1-based).
        category_names: name of each label, from label 1 on.
        path: the PNG.
        threshold: detections scored below it are left out.
    """
    detections = detections[detections.get_field("scores") >= threshold].convert("xyxy")
    labels = detections.get_field("labels").tolist()
    scores = detections.get_field("scores").tolist()
    canvas = pil_to_tensor(image)
    if labels:
        canvas = draw_bounding_boxes(
            canvas,
            detections.bbox.to(torch.int64),
            labels=[f"{category_names[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)],
            colors=[COLOURS[(label - 1) % len(COLOURS)] for label in labels],
            width=2,
        )
    write_png(canvas, str(path))
