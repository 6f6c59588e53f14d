"""Convert a dataset in Pascal VOC, YOLO or CSV format to COCO files."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fcos_core.data.formats.csv_table import read_csv
from fcos_core.data.formats.measure import MeasuredImage, measure
from fcos_core.data.formats.source import AnnotatedImage, ImageFiles, Problem, check_source, place
from fcos_core.data.formats.split import stratified_split
from fcos_core.data.formats.voc import read_voc
from fcos_core.data.formats.yolo import read_yolo
from fcos_core.data.image_facts import read_all_facts
from fcos_core.data.image_file import UnreadableImageError
from fcos_core.data.labels import alike_names
from fcos_core.errors import InputError
from fcos_core.utils.files import check_writable, explaining_failure, files_below, replacing
from fcos_core.utils.text import printable

FORMATS = ("voc", "yolo", "csv")
SPLITS = ("train", "val", "test")
# The file in a converted folder that names the datasets, and the one that lists the problems.
DATASETS_YAML, PROBLEMS_TXT = "datasets.yaml", "problems.txt"
# Problems that a message lists before it counts the rest.
_LISTED = 20
_OUTPUTS = (*(f"{split}.json" for split in SPLITS), DATASETS_YAML, PROBLEMS_TXT)


@dataclass
class Conversion:
    """Result of a conversion.

    Attributes:
        format: one of FORMATS.
        class_names: in the order of the category ids, which begin at 1.
        images: the images of each split.
        problems: all faults of the source.
        written: paths of the files.
    """

    format: str
    class_names: list[str]
    images: dict[str, list[MeasuredImage]]
    problems: list[Problem] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)


def convert(
    source: Path,
    out: Path,
    format: str | None = None,
    images: Path | None = None,
    split: Sequence[float] = (),
    seed: int = 0,
    class_names: Sequence[str] = (),
    first_pixel: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Write a COCO file for each split of the dataset `source` to the folder `out`, and datasets.yaml, which names all.

    Images stay where they are. Data that cannot be used are left out, named in `Conversion.problems` and in
    problems.txt. All images are decoded, so that a damaged one is found here.

    Args:
        source: folder of the dataset; or its data.yaml or CSV file.
        out: a new folder.
        format: one of FORMATS; None: the one that `source` looks like.
        images: folder of the images; None: `source`.
        split: shares of train, val and test (two or three numbers), to split anew, the same share of every class in
            each; (): as the source splits.
        seed: of the split.
        class_names: all classes, in the order of their ids; (): those of the source, by name (YOLO: as in data.yaml).
        first_pixel: 1 or 0, see `read_voc` and `read_csv`; None: 1 for VOC, 0 for CSV.
        strict: refuse to write if there is a problem.
        overwrite: replace the files of an earlier conversion.

    Raises:
        InputError: the source cannot be read, has no usable box, or, with `strict`, a problem; `out` has such files.
    """
    check_source(source)
    _check_out(out, overwrite)
    format = format or sniff_format(source)
    if format == "yolo" and (class_names or images or first_pixel is not None):
        raise InputError("--classes, --images and --first-pixel are for VOC and CSV; data.yaml says it for YOLO.")
    problems: list[Problem] = []
    annotated, own_names = _read(source, format, images, first_pixel, problems)
    measured = _measured(_once(annotated, problems), problems)
    names = _class_names(measured, own_names or class_names, problems)
    measured = [image for image in measured if _has_known_classes(image, names, problems)]
    splits = _split(measured, names, split, seed, problems)
    problems.sort(key=lambda problem: (problem.where, problem.fault))
    if not any(image.boxes for image in measured):
        raise InputError(f"'{source}', read as {format}, has no image with a usable box. {_listed(problems)}")
    if strict and problems:
        raise InputError(f"'{source}' has problems, and nothing is written. {_listed(problems)}")
    result = Conversion(format, names, splits, problems)
    _write(result, out)
    return result


def sniff_format(source: Path) -> str:
    """Return the one of FORMATS that a dataset has; raise InputError if that is none or not clear."""
    endings = {".xml": "voc", ".csv": "csv"}
    if source.is_file():
        endings |= {".yaml": "yolo", ".yml": "yolo"}
    files = [source] if source.is_file() else files_below(source)
    found = {endings[path.suffix.lower()] for path in files if path.suffix.lower() in endings}
    found |= {"yolo"} if _data_yamls(source) else set()
    if len(found) != 1:
        seen = f"looks like {' and like '.join(sorted(found))}"
        if not found:
            seen = "has no .xml, no data.yaml and no .csv file (COCO's .json need no conversion)"
        raise InputError(f"'{source}' {seen}: state its format with --format {'|'.join(FORMATS)}.")
    return found.pop()


def _data_yamls(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.y*ml")) if "names:" in path.read_text("utf-8", errors="replace")]


def _read(
    source: Path, format: str, images: Path | None, first_pixel: int | None, problems: list[Problem]
) -> tuple[list[AnnotatedImage], list[str]]:
    """Read the annotations; the class names are those of data.yaml, or empty."""
    folder = source if source.is_dir() else source.parent
    if format == "yolo":
        yamls = [source] if source.is_file() else _data_yamls(source)
        if len(yamls) != 1:
            raise InputError(f"'{source}' has {len(yamls)} YAML files with names: give the path of its data.yaml.")
        return read_yolo(yamls[0], problems)
    if images is not None:
        check_source(images)
    files = ImageFiles(images or folder)
    if format == "voc":
        return read_voc(folder, files, 1 if first_pixel is None else first_pixel, problems), []
    tables = [source] if source.is_file() else [path for path in files_below(source) if path.suffix.lower() == ".csv"]
    if not tables:
        raise InputError(f"'{source}' has no .csv file: give the path of the table.")
    return read_csv(tables, files, first_pixel or 0, problems), []


def _once(images: list[AnnotatedImage], problems: list[Problem]) -> list[AnnotatedImage]:
    """Keep the first annotation of each image, because two splits may not share an image."""
    first: dict[Path, AnnotatedImage] = {}
    for image in images:
        former = first.setdefault(image.path, image)
        if former is not image:
            also = f"{image.path} has annotations in {former.file} too"
            problems.append(
                Problem(f"{image.file}", f"{also} (split {former.split!r})" if former.split else also, "image")
            )
    return list(first.values())


def _measured(images: list[AnnotatedImage], problems: list[Problem]) -> list[MeasuredImage]:
    measured = []
    facts_of = read_all_facts([image.path for image in images], "Reading images")
    for image, facts in zip(images, facts_of, strict=True):
        if isinstance(facts, UnreadableImageError):
            problems.append(
                Problem(f"{image.path}", facts.fault.partition(" cannot be read: ")[2] or facts.fault, "image")
            )
        elif result := measure(image, facts, problems):
            measured.append(result)
    return measured


def _class_names(images: list[MeasuredImage], given: Sequence[str], problems: list[Problem]) -> list[str]:
    names = list(given) or sorted({box.name for image in images for box in image.boxes})
    for group in alike_names(names):
        problems.append(Problem("classes", f"{' and '.join(map(repr, group))} differ in case, spaces or hyphens alone"))
    return names


def _has_known_classes(image: MeasuredImage, names: list[str], problems: list[Problem]) -> bool:
    unknown = [box for box in image.boxes if box.name not in names]
    for box in unknown[:1]:
        fault = f"the class {box.name!r} is none of {', '.join(map(repr, names[:20]))}"
        problems.append(Problem(place(image.source.file, box.line), fault, "image"))
    return not unknown


def _split(
    images: list[MeasuredImage], names: list[str], shares: Sequence[float], seed: int, problems: list[Problem]
) -> dict[str, list[MeasuredImage]]:
    if shares:
        parts = [share / sum(shares) for share in shares]
        label_of = {name: label for label, name in enumerate(names)}
        classes = [sorted({label_of[box.name] for box in image.boxes}) for image in images]
        chosen = stratified_split(classes, [image.facts.digest for image in images], parts, seed)
        splits = {
            name: [image for image, k in zip(images, chosen, strict=True) if k == number]
            for number, name in enumerate(SPLITS[: len(parts)])
        }
        if empty := [name for name, part in splits.items() if not part]:
            raise InputError(
                f"--split leaves no image for {' and '.join(empty)} of {len(images)} usable ones: give larger shares."
            )
    elif any(image.source.split for image in images):
        splits = {name: [image for image in images if image.source.split == name] for name in SPLITS}
        problems += [
            Problem(f"{image.source.file}", "it is in none of the dataset's splits", "image")
            for image in images
            if not image.source.split
        ]
    else:
        splits = {"train": images}
    return {name: part for name, part in splits.items() if part}


def _check_out(out: Path, overwrite: bool) -> None:
    taken = [name for name in _OUTPUTS if (out / name).exists()]
    if taken and not overwrite:
        raise InputError(f"'{out}' has {', '.join(taken)} already: name another folder, or add --overwrite.")
    check_writable(str(out), "OUT")


def _write(result: Conversion, out: Path) -> None:
    root = Path(
        os.path.commonpath([image.source.path.absolute().parent for part in result.images.values() for image in part])
    )
    catalog = {}
    for split, images in result.images.items():
        path = out / f"{split}.json"
        _write_file(path, json.dumps(_as_coco(images, result.class_names, root)), result)
        catalog[f"{out.resolve().name}_{split}".replace(".", "_")] = {
            "img_dir": f"{root}",
            "ann_file": f"{path.resolve()}",
        }
    datasets = {
        key: [name for name in catalog if name.endswith(f"_{split}")]
        for key, split in (("TRAIN", "train"), ("TEST", "val"))
    }
    text = yaml.safe_dump({"DATASETS": {**datasets, "CATALOG": catalog}}, sort_keys=False, allow_unicode=True)
    _write_file(out / DATASETS_YAML, text, result)
    if result.problems:
        _write_file(out / PROBLEMS_TXT, "".join(f"{printable(problem)}\n" for problem in result.problems), result)
    for path in (out / name for name in _OUTPUTS):
        if path not in result.written:  # of an earlier conversion, which had more splits
            path.unlink(missing_ok=True)


def _write_file(path: Path, text: str, result: Conversion) -> None:
    with explaining_failure(path, "OUT"), replacing(str(path)) as file:
        file.write(text.encode(errors="backslashreplace"))
    result.written.append(path)


def _as_coco(images: list[MeasuredImage], names: list[str], root: Path) -> dict[str, Any]:
    """Return the content of a COCO file; ids begin at 1, file names are relative to `root`."""
    ids = {name: number for number, name in enumerate(names, 1)}
    content: dict[str, Any] = {"images": [], "annotations": []}
    for image_id, image in enumerate(images, 1):
        width, height = image.size
        file_name = image.source.path.absolute().relative_to(root).as_posix()
        content["images"].append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for box in image.boxes:
            x1, y1, x2, y2 = box.edges
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": ids[box.name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(box.is_ignored),
                }
            )
    content["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    return content


def _listed(problems: list[Problem]) -> str:
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return f"Problems ({len(problems)}): {'; '.join(map(str, problems[:_LISTED]))}{more}."


def class_counts(images: Sequence[MeasuredImage]) -> Counter[str]:
    """Return the number of boxes of each class."""
    return Counter(box.name for image in images for box in image.boxes)
