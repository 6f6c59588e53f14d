"""Draw a small dataset of shapes in COCO format: python tools/make_shapes_dataset.py FOLDER.

FOLDER gets train/ and val/ with PNG images, instances_train.json and instances_val.json.
"""

from pathlib import Path

from fcos_core.data.shapes import write_shapes
from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.text import printable


def main() -> None:
    """Draw the training and the validation images."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--train", type=int, default=800, help="training images")
    parser.add_argument("--val", type=int, default=120, help="validation images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_shapes(arguments.folder, arguments.train, arguments.val, arguments.seed)
    for name in ("instances_train.json", "instances_val.json"):
        print(f"Wrote {printable(arguments.folder / name)}")


if __name__ == "__main__":
    main()
