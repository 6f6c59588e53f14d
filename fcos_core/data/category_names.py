"""Find the names of a detector's classes."""

import os

from fcos_core.config import Config
from fcos_core.config.paths_catalog import COCO_DATASETS
from fcos_core.data.coco_json import read_coco_json
from fcos_core.data.own_dataset import OwnDataset, make_source


def category_names(cfg: Config) -> tuple[str, ...]:
    """Return the name of each label, from label 1 on.

    The names are those of the first dataset of DATASETS.TEST and DATASETS.TRAIN that has as many categories as the
    detector has classes: of an annotation file that is there, or COCO's. Without one they are "class 1", "class 2", ...
    Raise InputError if a dataset of the config is unknown, or its annotation file is damaged.
    """
    count = cfg.MODEL.FCOS.NUM_CLASSES - 1
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = _names_of(dataset, cfg)
        if len(names) == count:
            return names
    return tuple(f"class {label}" for label in range(1, count + 1))


def _names_of(dataset: str, cfg: Config) -> tuple[str, ...]:
    source = make_source(cfg, dataset)
    if isinstance(source, OwnDataset):
        return source.category_names
    _, ann_file = source
    if dataset in COCO_DATASETS and dataset not in cfg.DATASETS.CATALOG:
        return _coco_names()
    return read_coco_json(ann_file).category_names if os.path.isfile(ann_file) else ()


def _coco_names() -> tuple[str, ...]:
    # Imported here, because the import takes as long as torch's and training has no use for torchvision.
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

    # The list is by category id, with the background first and "N/A" for ids that COCO does not use.
    names = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(name for name in names if name not in ("__background__", "N/A"))
