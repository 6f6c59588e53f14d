"""Draw datasets of any size from a seed, without a download: images, annotation files and detections."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.models import SEED
from fcos_core.structures.bounding_box import BoxList

NUM_CLASSES = 80
WIDTH, HEIGHT = 640, 480
# Number of annotations written at once, so that the file need not fit into memory.
_PIECE = 10_000


def draw_jpegs(folder: Path, count: int) -> list[Path]:
    """Write `count` JPEG files of 640x480 pixels with as much detail as photographs, and return their paths."""
    rng = np.random.default_rng(SEED)
    paths = []
    for number in range(count):
        coarse = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth) + rng.normal(0, 8, (HEIGHT, WIDTH, 1))
        paths.append(folder / f"{number:06d}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def write_image_list(file: Path, images: list[Path]) -> None:
    """Write a COCO file that lists `images` and has no annotations."""
    entries = []
    for number, path in enumerate(images, 1):
        with Image.open(path) as image:
            entries.append({"id": number, "file_name": path.name, "width": image.width, "height": image.height})
    file.write_text(json.dumps({"images": entries}), encoding="utf-8")


def write_annotations(file: Path, images: int, boxes: int) -> None:
    """Write a COCO file of 640x480 images and boxes on random images, with polygons as long as COCO's."""
    rng = np.random.default_rng(SEED)
    polygons = [json.dumps([rng.uniform(0, 480, 2 * n).round(2).tolist()]) for n in rng.integers(8, 40, 1000)]
    names = [{"id": i, "name": f"class {i}"} for i in range(1, NUM_CLASSES + 1)]
    with file.open("w", encoding="utf-8") as out:
        out.write('{"info": {}, "categories": ' + json.dumps(names) + ', "images": [')
        out.write(
            ", ".join(
                f'{{"id": {i}, "file_name": "{i:012d}.jpg", "width": {WIDTH}, "height": {HEIGHT}}}'
                for i in range(1, images + 1)
            )
        )
        out.write('], "annotations": [')
        for start in range(0, boxes, _PIECE):
            piece = ", ".join(_annotations(rng, start, min(_PIECE, boxes - start), images, polygons))
            out.write((", " if start else "") + piece)
        out.write("]}")


def _annotations(rng: np.random.Generator, start: int, count: int, images: int, polygons: list[str]) -> Iterator[str]:
    corners, sides = _boxes(rng, count)
    columns = (rng.integers(1, images + 1, count), rng.integers(1, NUM_CLASSES + 1, count))
    rows = zip(*(column.tolist() for column in (*columns, corners.round(2), sides.round(2))), strict=True)
    for number, (image, category, (x, y), (width, height)) in enumerate(rows, start + 1):
        yield (
            f'{{"id": {number}, "image_id": {image}, "category_id": {category}, "iscrowd": 0, '
            f'"bbox": [{x}, {y}, {width}, {height}], "area": {0.6 * width * height:.2f}, '
            f'"segmentation": {polygons[number % len(polygons)]}}}'
        )


def draw_detections(truth: list[BoxList], count: int) -> list[BoxList]:
    """Draw `count` detections per image: each true box twice, moved and mostly with its label, and false boxes."""
    rng = np.random.default_rng(SEED + 1)
    detections = []
    for target in truth:
        found = target.bbox.repeat(2, 1)[:count]
        sides = (found[:, 2:] - found[:, :2]).repeat(1, 2)
        found = found + sides * torch.from_numpy(rng.normal(0, 0.08, found.shape)).to(found)
        labels = target.get_field("labels").repeat(2)[:count]
        wrong = torch.from_numpy(rng.random(len(labels)) < 0.2)
        others = torch.from_numpy(rng.integers(1, NUM_CLASSES + 1, count))
        corners, extents = _boxes(rng, count - len(found))
        false = torch.from_numpy(np.concatenate([corners, corners + extents], axis=1)).to(found)
        boxes = BoxList(torch.cat([found, false]), target.size)
        scores = np.concatenate([rng.beta(4, 2, len(found)), rng.beta(1, 6, len(false))])
        boxes.add_field("scores", torch.from_numpy(scores).to(found))
        boxes.add_field("labels", torch.cat([labels.where(~wrong, others[: len(labels)]), others[len(labels) :]]))
        detections.append(boxes)
    return detections


def _boxes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw corners and sides (N, 2) of boxes on a 640x480 image: sides from 8 pixels, small boxes more often."""
    extent = np.array([WIDTH, HEIGHT])
    sides = 8 * (extent / 16) ** rng.random((count, 2))
    return rng.random((count, 2)) * (extent - sides), sides
