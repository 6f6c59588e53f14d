"""Draw detections on an image."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fcos_core.structures.bounding_box import BoxList

# Eight colours that are easy to tell apart; class 9 has the colour of class 1 again.
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#f032e6")
# Enlarge an image by a whole factor until its shorter side has this many pixels, so that text stays readable.
MIN_SIDE = 320


def draw_detections(
    image: Image.Image, detections: BoxList, category_names: Sequence[str], path: str | Path, threshold: float = 0.3
) -> None:
    """Draw boxes, class names and scores of at least `threshold` on `image` and write it to `path`.

    Args:
        image, path: RGB, and the file to write, whose ending chooses the format.
        detections: boxes in pixels of `image` with fields "scores" (N,) and "labels" (N,), 1-based.
        category_names: name of each label, from label 1 on.
    """
    scale = -(-MIN_SIDE // min(image.size))
    canvas = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    shown = detections[detections.get_field("scores") >= threshold].resize(canvas.size).convert("xyxy")
    columns = (shown.bbox.tolist(), shown.get_field("labels").tolist(), shown.get_field("scores").tolist())
    # Draw the best detection last, so that no other one hides it.
    for box, label, score in reversed(list(zip(*columns, strict=True))):
        colour = COLOURS[(label - 1) % len(COLOURS)]
        text = f" {category_names[label - 1]} {score:.2f} "
        draw.rectangle(box, outline=colour, width=2)
        draw.rectangle(draw.textbbox(box[:2], text, font=font), fill=colour)
        draw.text(box[:2], text, fill="white", font=font)
    canvas.save(path)
