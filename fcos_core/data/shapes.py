"""Draw a small dataset of shapes in COCO format, for demonstrations.

The classes are circle, square and triangle, of random size, color and place, partly overlapping. Circles tend to red,
squares to green and triangles to blue. Some images are empty. Some have a crowd: a cluster of pale dots in one box,
which the evaluation ignores.
"""

import colorsys
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

_CLASSES = ("circle", "square", "triangle")
_EMPTY_SHARE, _CROWD_SHARE = 0.06, 0.25
_LEAST_VISIBLE = 0.75
# Largest deviation from the hue of a class, in degrees.
_HUE_SPREAD = 30


def _draw_image(rng: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw an RGB image; return it with annotations: category_id, bbox (x, y, width, height), area, iscrowd."""
    width, height = (128, 96) if rng.random() < 0.5 else (96, 128)
    noise = rng.uniform(70, 185) + rng.normal(0, 30, (height // 6, width // 6, 3))
    noise = noise.clip(0, 255).astype(np.uint8)
    image = Image.fromarray(noise).resize((width, height))
    if rng.random() < _EMPTY_SHARE:
        return image, []
    annotations: list[dict[str, Any]] = []
    # Masks of the shapes so far: a shape that would hide too much of another one is skipped.
    masks: list[np.ndarray] = []
    for _ in range(int(rng.integers(1, 5))):
        category = int(rng.integers(len(_CLASSES)))
        mask = _shape_mask(rng, _CLASSES[category], (width, height))
        covered = [(earlier & mask).sum() / earlier.sum() for earlier in masks]
        if mask.sum() == 0 or max(covered, default=0) > 1 - _LEAST_VISIBLE:
            continue
        masks.append(mask)
        _paint(rng, image, mask, category)
        annotations.append(_annotation(mask, category + 1))
    if rng.random() < _CROWD_SHARE:
        mask = _crowd_mask(rng, (width, height))
        if not any((earlier & mask).any() for earlier in masks):
            image.paste((235, 235, 235), mask=Image.fromarray(mask))
            annotations.append({**_annotation(mask, 1), "iscrowd": 1})
    return image, annotations


def _shape_mask(rng: np.random.Generator, name: str, size: tuple[int, int]) -> np.ndarray:
    """Draw one shape inside the image as a boolean (height, width) mask."""
    side = int(rng.uniform(24, 60))
    x, y = (int(rng.integers(0, extent - side)) for extent in size)
    canvas = Image.new("1", size)
    draw = ImageDraw.Draw(canvas)
    box = (x, y, x + side - 1, y + side - 1)
    if name == "circle":
        draw.ellipse(box, fill=1)
    elif name == "square":
        draw.rectangle(box, fill=1)
    else:
        draw.polygon([(box[0], box[3]), (box[2], box[3]), (x + side // 2, y)], fill=1)
    return np.array(canvas)


def _crowd_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw a cluster of dots as a boolean (height, width) mask."""
    canvas = Image.new("1", size)
    draw = ImageDraw.Draw(canvas)
    center = rng.integers(30, np.array(size) - 30)
    for x, y in rng.normal(center, 7, (12, 2)):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=1)
    return np.array(canvas)


def _paint(rng: np.random.Generator, image: Image.Image, mask: np.ndarray, category: int) -> None:
    """Fill the mask with a color close to the hue of the class."""
    hue = (category / len(_CLASSES) + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD) / 360) % 1
    color = colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 1), rng.uniform(0.5, 1))
    image.paste(tuple(round(255 * value) for value in color), mask=Image.fromarray(mask))


def _annotation(mask: np.ndarray, category_id: int) -> dict[str, Any]:
    """Make the COCO annotation of a mask, without ids."""
    ys, xs = np.nonzero(mask)
    x, y = int(xs.min()), int(ys.min())
    box = [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1]
    return {"category_id": category_id, "bbox": box, "area": int(mask.sum()), "iscrowd": 0}


def write_shapes(folder: str | Path, train: int = 800, val: int = 120, seed: int = 0) -> None:
    """Write images to FOLDER/train and FOLDER/val, and annotations to FOLDER/instances_train.json and _val.json.

    Args:
        folder: made if it does not exist.
        train, val: numbers of images.
        seed: of all drawing; the same seed draws the same images.
    """
    for split, count, number in (("train", train, 2 * seed), ("val", val, 2 * seed + 1)):
        _write_split(Path(folder), split, count, number)


def _write_split(folder: Path, split: str, count: int, seed: int) -> None:
    (folder / split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, count + 1):
        image, found = _draw_image(np.random.default_rng((seed, image_id)))
        name = f"{image_id:05d}.png"
        image.save(folder / split / name)
        images.append({"id": image_id, "file_name": name, "width": image.width, "height": image.height})
        annotations += [{"id": len(annotations) + i, "image_id": image_id, **a} for i, a in enumerate(found, 1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(_CLASSES, 1)]
    dataset = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"instances_{split}.json").write_text(json.dumps(dataset), encoding="utf-8")
