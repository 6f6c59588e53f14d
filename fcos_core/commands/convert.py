"""Convert a dataset in Pascal VOC, YOLO or CSV format to COCO files, which every other command reads.

Images stay where they are. VOC's boxes are pixels counted from 1 with the last pixel included; objects marked as
difficult become iscrowd 1, which training leaves out and metrics ignore. Data that cannot be used are left out and
named.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fcos_core.data.formats.convert import FORMATS, Conversion, class_counts, convert
from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.text import printable

_EXAMPLE = """example:
  %(prog)s my_photos data/mine --split 0.8/0.2
"""
# Problems that are printed; all are in the file.
_MOST_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert the dataset that the command line names; print counts, problems and files; None: of the command line."""
    options = _parser().parse_args(arguments)
    setup_logger("fcos_core", save_dir="", distributed_rank=0)
    result = convert(
        options.source,
        options.out,
        format=options.format,
        images=options.images,
        split=options.split,
        seed=options.seed,
        class_names=options.classes,
        first_pixel=options.first_pixel,
        strict=options.strict,
        overwrite=options.overwrite,
    )
    _print(result)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder, data.yaml or CSV file of the dataset")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the COCO files")
    parser.add_argument("--format", choices=FORMATS, help="default: the one that SOURCE looks like")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images (VOC, CSV); default: SOURCE")
    parser.add_argument(
        "--split", type=_shares, default=(), metavar="A/B[/C]", help="split anew: shares of train, val and test"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument(
        "--classes",
        type=_names,
        default=(),
        metavar="A,B,...",
        help="all classes, in the order of ids (VOC, CSV)",
    )
    parser.add_argument(
        "--first-pixel",
        type=int,
        choices=(0, 1),
        help="1: pixels count from 1, the last one included (default for VOC); 0: numbers are edges (default for CSV)",
    )
    parser.add_argument("--strict", action="store_true", help="write nothing if there is any problem")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier conversion")
    return parser


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or not all(0 < share < float("inf") for share in shares):
        raise argparse.ArgumentTypeError(f"{text!r} is not two or three shares above 0, such as 0.8/0.1/0.1")
    return shares


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _print(result: Conversion) -> None:
    """Print images and boxes of each split and class, the problems, and the files."""
    splits = {name: class_counts(images) for name, images in result.images.items()}
    width = max(map(len, (*map(printable, result.class_names), "images")))
    print(f"Read as {result.format}.\n" + " " * width + "".join(f"{name:>9}" for name in splits))
    print(f"{'images':<{width}}" + "".join(f"{len(images):>9}" for images in result.images.values()))
    for name in result.class_names:
        print(f"{printable(name):<{width}}" + "".join(f"{counts[name]:>9}" for counts in splits.values()))
    ignored = sum(box.is_ignored for images in result.images.values() for image in images for box in image.boxes)
    if ignored:
        print(f"{ignored} boxes of difficult objects are ignored (iscrowd 1).")
    if list(splits) == ["train"]:
        print("All images are for training: add --split 0.8/0.2 to keep some to validate on.")
    if result.problems:
        kinds = Counter(problem.left_out for problem in result.problems)
        left_out = f"{_counted(kinds['image'], 'image')} and {_counted(kinds['box'], 'box')}"
        print(f"{_counted(len(result.problems), 'problem')}; left out: {left_out}.")
        for problem in result.problems[:_MOST_SHOWN]:
            print(f"  {printable(problem)}")
        if len(result.problems) > _MOST_SHOWN:
            print(f"  and {len(result.problems) - _MOST_SHOWN} more, in problems.txt")
    for path in result.written:
        print(f"Wrote {printable(path)}")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('x') else 's'}"
