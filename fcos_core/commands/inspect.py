"""Inspect a dataset: decode every image, count, find problems, and propose a config that runs as it is.

DATA is a folder that `convert` has written. Or name COCO files: --images DIR --train FILE [--val FILE]; or a config.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcos_core.config import Config, cfg
from fcos_core.data.formats.convert import DATASETS_YAML
from fcos_core.engine.inspect_report import base_for, inspect_datasets
from fcos_core.errors import InputError
from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.files import check_writable, explaining_failure, replacing
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.text import printable

_EXAMPLE = """example:
  %(prog)s data/mine --write mine.yaml
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report and the config, and write the contact sheet; None: take the arguments of the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if sum(map(bool, (options.data, options.train, options.config_file))) != 1:
        parser.error("name one of DATA, --images DIR --train FILE, and --config-file FILE")
    setup_logger("fcos_core", save_dir="", distributed_rank=0)
    if options.write and options.write.exists() and not options.overwrite:
        raise InputError(f"'{options.write}' exists already: name another file, or add --overwrite.")
    check_writable(str(options.output), "--output")
    if options.write:
        check_writable(str(options.write.parent), "--write")
    config, base, names = _config(options)
    result = inspect_datasets(config, names, base_for(base, options.write), compare=bool(options.config_file))
    print(f"{result.report}\n\nproposed config:\n\n{result.config}")
    with explaining_failure(options.output, "--output"), replacing(str(options.output / "contact_sheet.jpg")) as file:
        result.sheet.save(file, "JPEG", quality=90)
    if options.write:
        with explaining_failure(options.write, "--write"), replacing(str(options.write)) as file:
            file.write(result.config.encode())
        print(f"Wrote {printable(options.write)}")
    print(f"Wrote {printable(options.output / 'contact_sheet.jpg')}")


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="a folder that convert has written")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folder of the images, or one for each file; default: that of the file",
    )
    parser.add_argument("--train", type=Path, metavar="FILE", help="COCO file of the training images")
    parser.add_argument("--val", type=Path, metavar="FILE", help="COCO file of the validation images")
    parser.add_argument("--config-file", metavar="FILE", help="YAML of a config: inspect its datasets at its sizes")
    parser.add_argument(
        "--base",
        default="configs/own/scratch_small.yaml",
        metavar="FILE",
        help="config that the proposal starts from (default: %(default)s)",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the proposed config to FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("inspection"),
        metavar="DIR",
        help="gets contact_sheet.jpg (default: %(default)s)",
    )
    return parser


def _config(options: argparse.Namespace) -> tuple[Config, str, list[str]]:
    """Return the config to inspect, the base of the proposed one, and the names of the datasets."""
    base = options.config_file or options.base
    config, datasets = cfg.clone(), cfg.clone()
    config.merge_from_file(base)
    if options.config_file:
        config.OUTPUT_DIR = f"{config.OUTPUT_DIR}_proposed"
        return config, base, [*config.DATASETS.TRAIN, *config.DATASETS.TEST]
    if options.data:
        file, name = options.data / DATASETS_YAML, options.data.resolve().name
        if not file.is_file():
            raise InputError(f"'{options.data}' has no {file.name}: convert the dataset first, or use --train FILE.")
        datasets.merge_from_file(str(file))
        config.merge_from_file(str(file))
    else:
        files = _named(options)
        name, *test = files
        for key, (folder, path) in files.items():
            datasets.DATASETS.CATALOG[key] = Config({"img_dir": str(folder.resolve()), "ann_file": str(path.resolve())})
        config.DATASETS.CATALOG.update(datasets.DATASETS.CATALOG)
        config.DATASETS.TRAIN, config.DATASETS.TEST = (name,), tuple(test)
    config.OUTPUT_DIR = f"training_dir/{name}"
    return config, base, list(datasets.DATASETS.CATALOG)


def _named(options: argparse.Namespace) -> dict[str, tuple[Path, Path]]:
    """Return image folder and annotation file of the sets of the command line, by a name."""
    files = [path for path in (options.train, options.val) if path]
    folders = options.images or [path.parent for path in files]
    if len(folders) not in (1, len(files)):
        raise InputError(
            f"--images names {len(folders)} folders for {len(files)} files: name one, or one for each file."
        )
    stems = [path.stem for path in files]
    if len(set(stems)) < len(stems):
        stems = [f"{path.resolve().parent.name}_{path.stem}" for path in files]
    # Names of datasets have no dots.
    names = [stem.replace(".", "_") for stem in stems]
    return dict(zip(names, zip(folders * (len(files) // len(folders)), files, strict=True), strict=True))
