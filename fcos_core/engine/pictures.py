"""Draw what a test and a training have left in OUTPUT_DIR: detections on their images, and loss curves."""

import logging
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from fcos_core.config import Config
from fcos_core.data.build import build_dataset
from fcos_core.data.category_names import category_names
from fcos_core.data.coco import COCODataset
from fcos_core.data.image_file import UnreadableImageError
from fcos_core.data.json_fields import Entry, box_fault, is_integer, numbered_entries, shown, state
from fcos_core.data.json_stream import explain_broken_json, read_members
from fcos_core.data.reader import none_readable
from fcos_core.errors import InputError, require
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.files import explaining_failure
from fcos_core.visualize.curves import plot_losses
from fcos_core.visualize.detections import draw_detections

logger = logging.getLogger(__name__)


def draw_run(cfg: Config, count: int, threshold: float) -> None:
    """Draw the first `count` images of each dataset of DATASETS.TEST, and the losses if training left a metrics.jsonl.

    OUTPUT_DIR/pictures gets DATASET/IMAGE_ID.png and losses.png. Detections with a score below `threshold` are left
    out.

    Raises:
        InputError: a dataset or its detections cannot be used, an image cannot be read although
            DATALOADER.SKIP_UNREADABLE is not set, or a picture cannot be written.
    """
    require(count >= 1, "--count", count, "1 or more")
    require(bool(cfg.DATASETS.TEST), "DATASETS.TEST", cfg.DATASETS.TEST, "the name of a dataset that was tested")
    pictures, metrics = Path(cfg.OUTPUT_DIR) / "pictures", Path(cfg.OUTPUT_DIR) / "metrics.jsonl"
    for name in cfg.DATASETS.TEST:
        _draw_dataset(cfg, name, pictures / name, count, threshold)
    if metrics.is_file():
        with explaining_failure(pictures / "losses.png"):
            _draw_losses(metrics, pictures / "losses.png")


def _draw_dataset(cfg: Config, name: str, folder: Path, count: int, threshold: float) -> None:
    dataset = build_dataset(cfg, name, is_train=False)
    names = dataset.category_names or category_names(cfg)
    # Without categories in the annotation file, the detections have labels as their category ids.
    label_of = {category: label for label, category in dataset.contiguous_to_category_id.items()}
    label_of = label_of or {label: label for label in range(1, len(names) + 1)}
    image_ids = {dataset.image_id(index) for index in range(len(dataset))}
    found = read_detections(Path(cfg.OUTPUT_DIR) / "inference" / name / "bbox.json", image_ids, label_of)
    with explaining_failure(folder):
        folder.mkdir(parents=True, exist_ok=True)
    shown: list[int] = []
    for index, image in islice(_readable_images(dataset, cfg.DATALOADER.SKIP_UNREADABLE), count):
        boxes = _as_boxes(found[dataset.image_id(index)], image.size, label_of)
        path = folder / f"{dataset.image_id(index)}.png"
        with explaining_failure(path):
            draw_detections(image, boxes, names, path, threshold)
        shown.append(int((boxes.get_field("scores") >= threshold).sum()))
    if not shown:
        raise none_readable(dataset)
    logger.info("Drew %d images with %d detections of %g or more in %s", len(shown), sum(shown), threshold, folder)


def _readable_images(dataset: COCODataset, skip_unreadable: bool) -> Iterator[tuple[int, Image.Image]]:
    """Yield index and image of the dataset's images, without those that cannot be read if they may be skipped."""
    for index in range(len(dataset)):
        try:
            image, _ = dataset[index]
        except UnreadableImageError:
            if not skip_unreadable:
                raise
            logger.warning("Skipped the unreadable image '%s'.", dataset.image_path(index))
        else:
            yield index, image


def _draw_losses(metrics: Path, picture: Path) -> None:
    try:
        plot_losses(metrics, picture)
    except InputError as error:
        # A training that has just begun: the pictures of detections are none the worse for it.
        logger.warning("No loss curve: %s", error)
    else:
        logger.info("Drew the loss curve %s", picture)


def read_detections(
    path: Path, image_ids: Collection[int], category_ids: Collection[int]
) -> defaultdict[int, list[Entry]]:
    """Read a file in COCO's result format; return its entries by image id.

    Raises:
        InputError: the file is missing or not JSON, an entry is not a detection, or its image or category is not among
            those of the dataset.
    """
    if not path.is_file():
        raise InputError(f"'{path}' does not exist: run tools/test_net.py with this config first.")
    by_image: defaultdict[int, list[Entry]] = defaultdict(list)
    with explain_broken_json("file of detections", str(path)), open(path, "rb") as file:
        members = read_members(file)
        key, value = next(members, ("", None))
        if key is not None:
            raise InputError(f"'{path}' is an object, not a list of detections: run tools/test_net.py again.")
        for number, entry in numbered_entries(value, "detections", str(path)):
            fault = _fault(entry, image_ids, category_ids)
            if fault:
                raise InputError(
                    f"'{path}': detection {number} {fault}. If the dataset has changed, run tools/test_net.py again."
                )
            by_image[int(entry["image_id"])].append(entry)
        next(members, None)  # What follows the list is an error, too.
    return by_image


def _fault(entry: Entry, image_ids: Collection[int], category_ids: Collection[int]) -> str | None:
    """Return what is wrong with a detection as the end of a sentence, or None."""
    for key, known in (("image_id", image_ids), ("category_id", category_ids)):
        if not is_integer(entry.get(key)) or entry[key] not in known:
            return f"{state(entry, key)}, but the annotation file lists no such {key.removesuffix('_id')}"
    box, score = entry.get("bbox"), entry.get("score")
    if box_fault(box):
        return f"has bbox {shown(box)}{box_fault(box)}"
    if not isinstance(score, (int, float)) or isinstance(score, bool) or not abs(score) <= sys.float_info.max:
        return f"{state(entry, 'score')}: give a finite number"
    return None


def _as_boxes(detections: list[Entry], size: tuple[int, int], label_of: Mapping[int, int]) -> BoxList:
    boxes = BoxList([found["bbox"] for found in detections], size, "xywh")
    boxes.add_field("scores", torch.tensor([float(found["score"]) for found in detections]))
    labels = [label_of[found["category_id"]] for found in detections]
    boxes.add_field("labels", torch.tensor(labels, dtype=torch.int64))
    return boxes
