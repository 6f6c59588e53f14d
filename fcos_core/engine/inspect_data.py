"""Inspect a dataset: images, boxes, classes, copies, levels; and propose sizes and levels."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fcos_core.config import Config
from fcos_core.data.box_checks import box_faults
from fcos_core.data.build import build_view_planners
from fcos_core.data.coco import boxes_to_learn
from fcos_core.data.coco_json import COCOTable, read_coco_json
from fcos_core.data.image_facts import ImageFacts, read_all_facts
from fcos_core.data.labels import alike_names
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.data.user_catalog import make_source
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.progress import progress
from fcos_core.weights.zoo import SCHEME, ZOO

# Images whose boxes are assigned to the levels; more do not change the shares.
_MOST_ASSIGNED = 2000
# Most bits of the 256 of `ImageFacts.look` in which copies differ that were scaled or compressed again.
_SAME_LOOK = 8


@dataclass
class InspectedSplit:
    """An annotation file, its images and their faults.

    Attributes:
        name, img_dir, table: the dataset.
        facts: of each image of the table; None for one that cannot be read or has another size.
        unreadable: some images are missing or damaged.
        problems: sentences with file names, of a kind each.
    """

    name: str
    img_dir: str
    table: COCOTable
    facts: list[ImageFacts | None] = field(default_factory=list)
    unreadable: bool = False
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def objects(self) -> np.ndarray:
        """(M,) bool: boxes to learn, that is, no crowds."""
        return ~self.table.crowd

    @property
    def image_of(self) -> np.ndarray:
        """(M,) index of each box's image."""
        return np.repeat(np.arange(len(self.table.image_ids)), np.diff(self.table.offsets))

    def boxes(self, image: int, continuous: bool = False) -> BoxList:
        """Return the boxes of an image to learn, see `boxes_to_learn`; label 1 is the category of the lowest id."""
        return boxes_to_learn(self.table, image, np.arange(1, 1 + len(self.table.category_ids)), continuous)

    def path(self, image: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.img_dir, str(self.table.file_names[image]))


@dataclass(frozen=True)
class Levels:
    """How the boxes to train on are shared out.

    Attributes:
        boxes: boxes that are looked at.
        counts: boxes with a location on each level; a box may have some on two.
        without: boxes that no location is trained on.
    """

    boxes: int
    counts: tuple[int, ...]
    without: int


def inspect_split(cfg: Config, name: str) -> InspectedSplit:
    """Decode every image of the dataset `name` and check its boxes; raise InputError if the annotations cannot be read.

    Args:
        cfg: a config whose catalog knows the dataset.
        name: name of the dataset.
    """
    source = make_source(cfg, name)
    if isinstance(source, OwnDataset):
        raise InputError(f"The dataset '{name}' is of a class of its own: only COCO files can be inspected.")
    split = InspectedSplit(name, source[0], read_coco_json(source[1]))
    paths = [split.path(image) for image in range(len(split.table.image_ids))]
    facts_of = read_all_facts(paths, f"Decoding {name}", cfg.INPUT.MAX_PIXELS)
    for path, size, facts in zip(paths, split.table.sizes.tolist(), facts_of, strict=True):
        if not isinstance(facts, ImageFacts):
            split.unreadable = True
            split.problems["images that cannot be read"].append(str(facts))
        elif tuple(size) not in (facts.stored, facts.upright):
            found = "{}x{}".format(*facts.stored)
            fault = f"{path} has {found} pixels, its annotation says {size[0]}x{size[1]}"
            split.problems["images of another size than their annotation says (training stops there)"].append(fault)
        usable = isinstance(facts, ImageFacts) and tuple(size) in (facts.stored, facts.upright)
        split.facts.append(facts if usable else None)
    _check_boxes(split)
    _check_classes(split)
    return split


def _check_boxes(split: InspectedSplit) -> None:
    table, image_of = split.table, split.image_of
    boxes, sizes = table.boxes, table.sizes[image_of]
    keys = np.column_stack([image_of, table.labels, boxes])
    _, places = np.unique(keys, axis=0, return_index=True)
    twice = np.ones(len(boxes), dtype=bool)
    twice[places] = False
    known = box_faults(boxes[split.objects], sizes[split.objects])
    faults = {"boxes that are there twice": twice}
    for fault, (mask, consequence) in known.items():
        faults[f"boxes that {fault} ({consequence.rstrip('.')})"] = everywhere = np.zeros(len(boxes), dtype=bool)
        everywhere[split.objects] = mask
    for fault, mask in faults.items():
        for row in np.flatnonzero(mask & split.objects):
            box = ", ".join(f"{number:.6g}" for number in boxes[row])
            size = "{}x{}".format(*sizes[row])
            text = f"annotation {table.annotation_ids[row]} of {split.path(image_of[row])} ({size}), bbox [{box}]"
            split.problems[fault].append(text)


def _check_classes(split: InspectedSplit) -> None:
    table = split.table
    counts = np.bincount(table.labels[split.objects] - 1, minlength=len(table.category_ids))
    for name, count in zip(table.category_names, counts, strict=True):
        if not count:
            split.problems["classes without a box"].append(repr(name))
    for group in alike_names(table.category_names):
        split.problems["classes that differ in case, spaces or hyphens alone"].append(" and ".join(map(repr, group)))


def find_copies(splits: Sequence[InspectedSplit]) -> dict[str, list[str]]:
    """Return pairs of images that are the same, within and between the splits, as problems by kind."""
    problems: dict[str, list[str]] = defaultdict(list)
    known: dict[bytes, tuple[InspectedSplit, int]] = {}
    for split in splits:
        for image, facts in enumerate(split.facts):
            if facts is None:
                continue
            other, first = known.setdefault(facts.digest, (split, image))
            if (other, first) != (split, image) and (other is split or other.path(first) != split.path(image)):
                kind = f"{split.name}: copies of images in {other.name}"
                problems[kind].append(f"{split.path(image)} of {other.path(first)}")
            elif other is not split:
                problems[f"{split.name}: images that are in {other.name} too"].append(split.path(image))
    for number, split in enumerate(splits):
        for other in splits[:number]:
            pairs = _alike(split, other)
            if pairs:
                problems[f"{split.name}: images that look like others in {other.name}"] += pairs
    return problems


def _alike(one: InspectedSplit, other: InspectedSplit) -> list[str]:
    """Return pairs of images with nearly the same look, but other files."""
    (images, own), (others, known) = _looks(one), _looks(other)
    if not images or not others:
        return []
    pairs = []
    for image, look in zip(images, own, strict=True):
        distances = look.sum() + known.sum(dim=1) - 2 * known @ look
        nearest = int(distances.argmin())
        twin = others[nearest]
        if distances[nearest] <= _SAME_LOOK and other.facts[twin].digest != one.facts[image].digest:
            pairs.append(f"{one.path(image)} and {other.path(twin)}")
    return pairs


def _looks(split: InspectedSplit) -> tuple[list[int], torch.Tensor]:
    """Return the images that are not flat, and their looks (N, 256), 0 or 1."""
    images = [image for image, facts in enumerate(split.facts) if facts is not None and facts.look.any()]
    bits = [np.unpackbits(split.facts[image].look) for image in images]
    return images, torch.tensor(np.array(bits), dtype=torch.float32)


def share_levels(cfg: Config, split: InspectedSplit) -> Levels:
    """Assign the boxes of a split to locations as a training does, at the one size of INPUT.MIN_SIZE_TEST."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FCOS.NUM_CLASSES, cfg.SOLVER.MAX_ITER = 2, cfg.SOLVER.MAX_ITER or 1
    cfg.TEST.BBOX_AUG.ENABLED = False
    model, table = build_detection_model(cfg), split.table
    planner = build_view_planners(cfg, table.sizes)[0]
    wanted = np.flatnonzero(np.diff(table.offsets))
    wanted = wanted[:: -(-len(wanted) // _MOST_ASSIGNED) or 1]
    counts: Counter[int] = Counter()
    total = without = 0
    for image in progress(wanted.tolist(), len(wanted), "Assigning boxes"):
        plan = planner.plan(0, [image])
        target = split.boxes(image, cfg.MODEL.FCOS.PIXELS == "continuous").resize(plan.samples[0].size)
        target.add_field("labels", torch.arange(1, len(target) + 1))
        assigned = model.assign_targets(plan.padded_size, [target])
        lengths = [height * width for height, width in assigned.level_sizes]
        found = [set(level[level > 0].tolist()) for level in assigned.labels[0].split(lengths)]
        counts.update({level: len(own) for level, own in enumerate(found)})
        total += len(target)
        without += len(target) - len(set().union(*found))
    return Levels(total, tuple(counts[level] for level in range(len(cfg.MODEL.FCOS.FPN_STRIDES))), without)


@dataclass(frozen=True)
class Proposal:
    """Sizes and levels that fit the boxes of a dataset.

    Attributes:
        min_size, max_size: sides of the network's images in pixels, see INPUT.MIN_SIZE_TEST.
        scale: size of a photograph of the median size there, as a factor.
        keys: other keys of the config and their values.
    """

    min_size: int
    max_size: int
    scale: float
    keys: dict[str, object]


def _begins_as_detector(weight: str) -> bool:
    """Return True if MODEL.WEIGHT may hold a whole detector, as any file that is not known to be an ImageNet body."""
    name = weight.removeprefix(SCHEME)
    if name in ZOO:
        return ZOO[name].ap is not None
    return bool(weight) and not weight.startswith(("catalog://", "hf://timm/"))


def propose(cfg: Config, split: InspectedSplit) -> Proposal:
    """Propose the size of images, and the strides and ranges of the levels, for the boxes of a training split.

    Images are scaled so that nine of ten boxes have 32 pixels (square root of the area), four times the finest stride,
    and half of those of the smallest class 24; within 192 to 800 pixels for the shorter side, and at most twice the
    photographs' size. If boxes stay below half of that, an HRNet gets levels from stride 4 on. The finest level's range
    ends at a power of two near two thirds of the median longer side. Pretrained weights keep at least the size of the
    config, as they know objects of a size; a detector that begins as a trained one keeps its levels.
    """
    table, rows = split.table, split.objects & (split.table.boxes[:, 2:] > 1).all(axis=1)
    short, long = np.median(table.sizes.min(axis=1)), np.median(table.sizes.max(axis=1))
    if not rows.any():
        raise InputError(f"'{table.ann_file}' has no box wider and higher than 1 pixel: there is nothing to learn.")
    boxes = table.boxes[rows, 2:]
    sides, labels = np.sqrt(boxes.prod(axis=1)), table.labels[rows]
    classes = [np.median(sides[labels == label]) for label in np.unique(labels)]
    wanted = max(32 / np.percentile(sides, 10), 24 / min(classes))
    shortest = min(192, 32 * np.ceil(short / 32))
    min_size = int(np.clip(32 * round(min(wanted, 2) * short / 32), shortest, 800))
    if cfg.MODEL.WEIGHT:
        min_size = max(min_size, cfg.INPUT.MIN_SIZE_TEST)
    ratio = float(np.percentile(table.sizes.max(axis=1) / table.sizes.min(axis=1), 95))
    max_size = min(int(32 * np.ceil(round(min_size * ratio / 32, 3))), max(1333, int(long)))
    scale = min_size / short
    keys: dict[str, object] = {}
    if _begins_as_detector(cfg.MODEL.WEIGHT):
        return Proposal(min_size, max_size, scale, keys)
    strides, is_hrnet = list(cfg.MODEL.FCOS.FPN_STRIDES), cfg.MODEL.BACKBONE.CONV_BODY.startswith("HRNET")
    if scale < wanted / 2 and is_hrnet and cfg.MODEL.HRNET.FPN.CONV_STRIDE == 2:
        strides = [stride // 2 for stride in strides]
        keys |= {"MODEL.HRNET.FPN.CONV_STRIDE": 1, "MODEL.FCOS.FPN_STRIDES": strides}
    median = float(np.median(boxes.max(axis=1))) * scale
    end = int(np.clip(2 ** round(np.log2(max(median * 2 / 3, 1))), 4 * strides[0], 8 * strides[0]))
    ends = [end * 2**level for level in range(len(strides) - 1)]
    keys["MODEL.FCOS.TARGET_ASSIGN"] = [list(pair) for pair in zip([-1, *ends], [*ends, 100000000], strict=True)]
    return Proposal(min_size, max_size, scale, keys)
