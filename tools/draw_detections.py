"""Draw the detections of a tested model.

    python tools/draw_detections.py --config-file FILE [--count N] [--threshold T] [KEY VALUE ...]

Reads OUTPUT_DIR/inference/DATASET/bbox.json, which tools/test_net.py wrote. Writes one PNG for each image to
OUTPUT_DIR/pictures/DATASET, and the loss curve to OUTPUT_DIR/pictures/losses.png if training left a metrics.jsonl.
"""

import json
from collections import defaultdict
from pathlib import Path

import torch

from fcos_core.config import Config
from fcos_core.data.build import build_dataset
from fcos_core.engine.program import config_parser, make_config, parse_arguments, run_program
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList
from fcos_core.visualize.curves import plot_losses
from fcos_core.visualize.detections import draw_detections


def read_detections(path: Path) -> dict[int, list[dict]]:
    """Read a file in COCO's result format; return its entries by image id."""
    if not path.is_file():
        raise InputError(f"'{path}' does not exist; run tools/test_net.py with this config first.")
    by_image = defaultdict(list)
    for detection in json.loads(path.read_text(encoding="utf-8")):
        by_image[detection["image_id"]].append(detection)
    return by_image


def main() -> None:
    """Draw every dataset of DATASETS.TEST."""
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=12, help="images to draw of each dataset")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score drawn")
    arguments = parse_arguments(parser)
    config = make_config(arguments)
    output = Path(config.OUTPUT_DIR)
    for name in config.DATASETS.TEST:
        draw_dataset(config, name, output, arguments.count, arguments.threshold)
    if (output / "metrics.jsonl").is_file():
        plot_losses(output / "metrics.jsonl", output / "pictures" / "losses.png")
        print(f"loss curve: {output / 'pictures' / 'losses.png'}")


def draw_dataset(config: Config, name: str, output: Path, count: int, threshold: float) -> None:
    """Draw the first `count` images of one dataset, with detections scored `threshold` or more."""
    dataset = build_dataset(config, name, is_train=False)
    detections = read_detections(output / "inference" / name / "bbox.json")
    folder = output / "pictures" / name
    folder.mkdir(parents=True, exist_ok=True)
    label_of = {category: label for label, category in dataset.contiguous_to_category_id.items()}
    for index in range(min(count, len(dataset))):
        image, _ = dataset[index]
        found = detections[dataset.image_id(index)]
        boxes = BoxList([d["bbox"] for d in found], image.size, "xywh")
        boxes.add_field("scores", torch.tensor([d["score"] for d in found]))
        boxes.add_field("labels", torch.tensor([label_of[d["category_id"]] for d in found], dtype=torch.int64))
        path = folder / f"{dataset.image_id(index)}.png"
        draw_detections(image, boxes, dataset.category_names, path, threshold)
    print(f"pictures of {name}: {folder}")


if __name__ == "__main__":
    run_program(main)
