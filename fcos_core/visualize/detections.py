"""Pictures of detections."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fcos_core.structures.bounding_box import BoxList

# Distinguishable colours that repeat after eight classes.
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#f032e6")
# Smaller pictures are enlarged, in whole steps, until their shorter side has as many pixels.
LEAST_SIDE = 320


def draw_detections(
    image: Image.Image, detections: BoxList, category_names: Sequence[str], path: str | Path, threshold: float = 0.3
) -> None:
    """Write `image` with its boxes, class names and scores, in the format of the ending of `path`.

    Args:
        image: RGB.
        detections: boxes in pixels of `image` with fields "scores" and "labels" (1-based).
        category_names: name of each label, from label 1 on.
        path: the picture.
        threshold: detections scored below it are left out.
    """
    scale = -(-LEAST_SIDE // min(image.size))
    canvas = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    found = detections[detections.get_field("scores") >= threshold].resize(canvas.size).convert("xyxy")
    columns = (found.bbox.tolist(), found.get_field("labels").tolist(), found.get_field("scores").tolist())
    # The best is drawn last, above the others.
    for box, label, score in reversed(list(zip(*columns, strict=True))):
        colour = COLOURS[(label - 1) % len(COLOURS)]
        text = f" {category_names[label - 1]} {score:.2f} "
        draw.rectangle(box, outline=colour, width=2)
        draw.rectangle(draw.textbbox(box[:2], text, font=font), fill=colour)
        draw.text(box[:2], text, fill="white", font=font)
    canvas.save(path)
