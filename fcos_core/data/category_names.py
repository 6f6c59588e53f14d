"""Find the names of a detector's classes."""

import logging
import os
from collections.abc import Sequence

from fcos_core.config import Config
from fcos_core.config.paths_catalog import COCO_DATASETS
from fcos_core.data.coco_json import COCOTable, read_coco_json
from fcos_core.data.labels import fewer_note, order_note, own_names
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.data.user_catalog import make_source

logger = logging.getLogger(__name__)


def category_names(cfg: Config, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the name of each label, from label 1 on.

    The names are `known`, those of the checkpoint, or of the first dataset of DATASETS.TEST and DATASETS.TRAIN that has
    as many categories as the detector has classes: of an annotation file that is there, or COCO's. Classes without a
    name are "class 1", "class 2", ...
    Raise InputError if a dataset of the config is unknown, or its annotation file is damaged.
    """
    count = cfg.MODEL.FCOS.NUM_CLASSES - 1 if cfg.MODEL.FCOS.NUM_CLASSES else len(known)
    names = tuple(known[:count])
    for dataset in () if names else (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        found = listed_names(cfg, dataset)
        if len(found) == count:
            return found
    return names + tuple(f"class {label}" for label in range(len(names) + 1, count + 1))


def listed_names(cfg: Config, dataset: str) -> tuple[str, ...]:
    """Return the class names of a dataset, in the order of its labels; () if its annotation file is not there."""
    return _coco_names() if _is_coco(dataset, cfg) else _names_of(dataset, cfg)


def training_names(cfg: Config) -> tuple[str, ...]:
    """Return the name of each label of the first training dataset, for a detector whose weights have no names.

    Return () if its annotation file is not there, or lists another number of categories than the detector has classes,
    or is COCO's, which takes long to read and whose order is well known.
    """
    first = cfg.DATASETS.TRAIN[:1]
    if not first or _is_coco(first[0], cfg):
        return ()
    table, count, order = _table_of(first[0], cfg), cfg.MODEL.FCOS.NUM_CLASSES - 1, cfg.DATASETS.LABEL_ORDER
    listed = 0 if table is None else len(table.category_ids)
    if table is None or listed > count or (listed < count and not cfg.DATASETS.FEWER_CATEGORIES):
        return ()
    if listed < count:
        logger.warning("%s", fewer_note(table.ann_file, listed, count))
    if note := order_note(table, order):
        logger.warning("%s", note)
    return tuple(own_names(table, order).values())


def _is_coco(dataset: str, cfg: Config) -> bool:
    return dataset in COCO_DATASETS and dataset not in cfg.DATASETS.CATALOG


def _names_of(dataset: str, cfg: Config) -> tuple[str, ...]:
    source = make_source(cfg, dataset)
    if isinstance(source, OwnDataset):
        return source.category_names
    table = _table_of(dataset, cfg)
    return () if table is None else tuple(own_names(table, cfg.DATASETS.LABEL_ORDER).values())


def _table_of(dataset: str, cfg: Config) -> COCOTable | None:
    source = make_source(cfg, dataset)
    if isinstance(source, OwnDataset) or not os.path.isfile(source[1]):
        return None
    return read_coco_json(source[1])


def _coco_names() -> tuple[str, ...]:
    # Imported here, because the import takes as long as torch's and training has no use for torchvision.
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

    # The list is by category id, with the background first and "N/A" for ids that COCO does not use.
    names = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(name for name in names if name not in ("__background__", "N/A"))
