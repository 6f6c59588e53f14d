"""Report on a dataset, and the config that it proposes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from fcos_core.config import Config
from fcos_core.data.image_file import read_image
from fcos_core.engine.inspect_data import (
    InspectedSplit,
    Levels,
    Proposal,
    find_copies,
    inspect_split,
    propose,
    share_levels,
)
from fcos_core.errors import InputError
from fcos_core.modeling.fcos.targets import DEFAULT_RANGES
from fcos_core.utils.text import printable
from fcos_core.visualize.contact_sheet import contact_sheet

_PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
_BAR = 40
# Examples that a problem is printed with, and images on the contact sheet.
_EXAMPLES, _PICTURES = 5, 12


@dataclass(frozen=True)
class Inspection:
    """Result of an inspection.

    Attributes:
        report: counts, sizes and problems, many lines.
        config: text of a YAML file that trains on the data.
        sheet: images with their boxes.
    """

    report: str
    config: str
    sheet: Image.Image


def inspect_datasets(cfg: Config, names: Sequence[str], base: str, compare: bool = False) -> Inspection:
    """Inspect datasets, and propose a config for the first of DATASETS.TRAIN.

    Args:
        cfg: the config that the proposal starts from, with DATASETS.
        names: datasets to inspect; the first is to train on.
        base: value of _BASE_ in the proposed config.
        compare: show the levels of `cfg` as it is, too.

    Raises:
        InputError: a dataset cannot be read, or there is nothing to train on.
    """
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty: inspect needs data to train on.")
    splits = [inspect_split(cfg, name) for name in dict.fromkeys(names)]
    first = splits[0]
    proposal = propose(cfg, first)
    proposed = proposed_config(cfg, proposal)
    lines = [*describe(splits), *describe_boxes(first, proposal.scale)]
    if compare:
        lines += ["\nAs the config is:", *describe_levels(cfg, share_levels(cfg, first)), "\nAs proposed:"]
    lines += describe_levels(proposed, share_levels(proposed, first))
    for split in splits:
        lines += describe_problems({f"{split.name}: {kind}": cases for kind, cases in split.problems.items()})
    lines += describe_problems(find_copies(splits))
    return Inspection("\n".join(lines), config_text(base, splits, proposed, proposal), draw_sheet(first))


def describe(splits: Sequence[InspectedSplit]) -> Iterator[str]:
    """Yield lines about the number of images, classes and boxes, and about the shapes of both."""
    for split in splits:
        table, objects = split.table, split.objects
        sizes, counts = np.unique(table.sizes, axis=0, return_counts=True)
        shown = "{}x{}".format(*sizes[counts.argmax()])
        if len(sizes) > 1:
            by_area = sizes[sizes.prod(axis=1).argsort(kind="stable")]
            shown = "{} sizes from {}x{} to {}x{}, most often {}".format(len(sizes), *by_area[0], *by_area[-1], shown)
        bare = (np.bincount(split.image_of[objects], minlength=len(table.sizes)) == 0).sum()
        yield f"{split.name}: {len(table.sizes)} images ({shown}), {bare} without boxes; {objects.sum()} boxes"
        if bare and split is splits[0]:
            yield "  training leaves out images without boxes, unless DATALOADER.KEEP_EMPTY_IMAGES is True"
        if table.crowd.any():
            yield f"  {table.crowd.sum()} boxes are crowds, which training leaves out and metrics ignore"
    names = list(dict.fromkeys(name for split in splits for name in split.table.category_names))
    yield "\nboxes / images of each class"
    width = max(map(len, map(printable, names)))
    yield " " * width + "".join(f"{split.name:>{_column(split)}}" for split in splits)
    for name in names:
        yield f"{printable(name):<{width}}" + "".join(f"{_counts(split, name):>{_column(split)}}" for split in splits)


def describe_boxes(split: InspectedSplit, scale: float) -> Iterator[str]:
    """Yield lines about the sizes of boxes, in the photographs and in the network's images, and their aspect ratios."""
    boxes = split.table.boxes[split.objects, 2:]
    boxes = boxes[(boxes > 0).all(axis=1)]
    sides = np.sqrt(boxes.prod(axis=1))
    yield f"\nsize of the boxes of {split.name}: square root of the area, in pixels"
    yield "percentile      " + "".join(f"{p:>7}%" for p in _PERCENTILES)
    yield "in photographs  " + "".join(f"{value:>8.0f}" for value in np.percentile(sides, _PERCENTILES))
    yield "in the network  " + "".join(f"{value * scale:>8.0f}" for value in np.percentile(sides, _PERCENTILES))
    yield "width / height  " + "".join(f"{v:>8.2f}" for v in np.percentile(boxes[:, 0] / boxes[:, 1], _PERCENTILES))
    bounds = np.array([0, *(2.0 ** np.arange(2, 10.5, 0.5)), np.inf])
    counts = np.histogram(sides * scale, bounds)[0]
    yield "\nhistogram in the network's pixels"
    for low, high, count in list(zip(bounds[:-1], bounds[1:], counts, strict=True))[_used(counts)]:
        yield f"{low:>5.0f} -{high:>5.0f} {'#' * -(-_BAR * count // counts.max())} {count}"


def describe_levels(cfg: Config, levels: Levels) -> Iterator[str]:
    """Yield lines about the boxes of each level, at the sizes, strides and ranges of a config."""
    yield f"\nlevels, with images of {cfg.INPUT.MIN_SIZE_TEST} pixels (longer side at most {cfg.INPUT.MAX_SIZE_TEST}):"
    yield "range of the largest distance to a side of the box, boxes that are trained on there"
    for stride, (low, high), count in zip(cfg.MODEL.FCOS.FPN_STRIDES, _ranges(cfg), levels.counts, strict=True):
        span = f"above {low:g}" if high >= 1e6 else f"{max(low, 0):g} - {high:g}"
        yield f"  stride {stride:>3}  {span:>11}  {count:>8} boxes, {_share(count, levels.boxes)}"
    yield f"  no location at all       {levels.without:>8} boxes, {_share(levels.without, levels.boxes)}"


def describe_problems(problems: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the kinds of problems with their number and some examples."""
    for kind, cases in problems.items():
        yield f"\n{kind}: {len(cases)}"
        yield from (f"  {printable(case)}" for case in cases[:_EXAMPLES])
        if len(cases) > _EXAMPLES:
            yield f"  and {len(cases) - _EXAMPLES} more"


def config_text(base: str, splits: Sequence[InspectedSplit], cfg: Config, proposal: Proposal) -> str:
    """Return the YAML of a config that trains and tests on the datasets of `cfg`.

    Args:
        base: value of _BASE_.
        splits: the datasets; the first is the one that the proposal is for.
        cfg: a config with DATASETS.
        proposal: sizes and levels.
    """
    tree: dict[str, Any] = {"_BASE_": base, "OUTPUT_DIR": cfg.OUTPUT_DIR, "MODEL": {"FCOS": {"NUM_CLASSES": 0}}}
    for key, value in proposal.keys.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    catalog = {
        split.name: {"img_dir": os.path.abspath(split.img_dir), "ann_file": os.path.abspath(split.table.ann_file)}
        for split in splits
    }
    tree["DATASETS"] = {"TRAIN": list(cfg.DATASETS.TRAIN), "TEST": list(cfg.DATASETS.TEST), "CATALOG": catalog}
    low, high = proposal.min_size, proposal.max_size
    tree["INPUT"] = {"MIN_SIZE_TRAIN": [low], "MAX_SIZE_TRAIN": high, "MIN_SIZE_TEST": low, "MAX_SIZE_TEST": high}
    if any(split.unreadable for split in splits):
        tree["DATALOADER"] = {"SKIP_UNREADABLE": True}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    data = f"{len(splits[0].table.sizes)} images of {printable(splits[0].name)}"
    return f"# Proposed for the {data}; 0 classes: as they are listed there.\n{text}"


def proposed_config(cfg: Config, proposal: Proposal) -> Config:
    """Return `cfg` with the proposal."""
    cfg = cfg.clone()
    cfg.merge_from_list([word for item in proposal.keys.items() for word in item])
    low, high = proposal.min_size, proposal.max_size
    sizes = {"MIN_SIZE_TRAIN": (low,), "MAX_SIZE_TRAIN": high, "MIN_SIZE_TEST": low, "MAX_SIZE_TEST": high}
    cfg.merge_from_list([word for key, value in sizes.items() for word in (f"INPUT.{key}", value)])
    return cfg


def draw_sheet(split: InspectedSplit) -> Image.Image:
    """Draw twelve images with their boxes, spread over the split, the rarest classes first.

    Raises:
        InputError: no image with a box can be read.
    """
    table, objects = split.table, split.objects
    images_of = [
        np.unique(split.image_of[objects & (table.labels == label)]) for label in range(1, 1 + len(table.category_ids))
    ]
    chosen: dict[int, None] = {}
    usable = {image for image, facts in enumerate(split.facts) if facts is not None}
    pools = [[image for image in own.tolist() if image in usable] for own in sorted(images_of, key=len)]
    for turn in range(_PICTURES):
        for pool in pools:
            # The middle of each part of the pool, so that the images of one sequence do not fill the sheet.
            for image in pool[(2 * turn + 1) * len(pool) // (2 * _PICTURES) :][:1]:
                chosen.setdefault(image)
    if not chosen:
        faults = [cases[0] for kind, cases in split.problems.items() if kind.startswith("images")]
        shown = f", such as: {faults[0]}" if faults else ""
        raise InputError(f"'{table.ann_file}' has no image with a box that can be used{shown}")
    # Continuous boxes end at the right edge of their last pixel, however large it is drawn.
    pictures = [
        (read_image(split.path(image), tuple(table.sizes[image].tolist())), split.boxes(image, continuous=True))
        for image in sorted(list(chosen)[:_PICTURES])
    ]
    return contact_sheet(pictures, table.category_names)


def base_for(base: str, target: Path | None) -> str:
    """Return how the file `target` names its base: relative to its folder; `base` itself if that is the package's."""
    if not os.path.exists(base):
        return base
    return os.path.relpath(base, target.parent if target else ".")


def _ranges(cfg: Config) -> Sequence[tuple[float, float]]:
    return cfg.MODEL.FCOS.TARGET_ASSIGN or DEFAULT_RANGES[len(cfg.MODEL.FCOS.FPN_STRIDES)]


def _column(split: InspectedSplit) -> int:
    return max(len(split.name), 14) + 2


def _counts(split: InspectedSplit, name: str) -> str:
    labels = [label for label, other in enumerate(split.table.category_names, 1) if other == name]
    rows = split.objects & np.isin(split.table.labels, labels)
    return f"{rows.sum()} / {len(np.unique(split.image_of[rows]))}"


def _share(count: int, total: int) -> str:
    return f"{100 * count / max(total, 1):.1f} %"


def _used(counts: np.ndarray) -> slice:
    used = np.flatnonzero(counts)
    return slice(int(used[0]), int(used[-1]) + 1)
