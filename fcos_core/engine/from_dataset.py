"""Derive the number of classes and the length of a training from the data, where the config leaves them out."""

from typing import Any, TypeGuard

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.config.dumped import config_values
from fcos_core.config.paths_catalog import weights_source
from fcos_core.data.category_names import listed_names
from fcos_core.data.coco import kept_rows
from fcos_core.data.coco_json import read_ahead
from fcos_core.data.labels import check_classes, own_names
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.data.user_catalog import make_source
from fcos_core.errors import InputError, require
from fcos_core.weights.checkpoint_meta import CheckpointMeta, read_meta

# A training shows this number times N^0.75 images for N images of the dataset: 9,000 for 160, 1.2 million for COCO.
_IMAGES_SHOWN = 200
# Largest share of a derived training that is warm-up.
_WARMUP_SHARE = 10


def complete_config(cfg: Config, is_train: bool) -> None:
    """Put real numbers in the place of MODEL.FCOS.NUM_CLASSES 0 and SOLVER.MAX_ITER 0, and note them in `cfg.notes`.

    In training both follow from DATASETS.TRAIN. MAX_ITER 0 also gives STEPS, if it is empty or left at its default, two
    thirds and eight ninths of the iterations, and caps WARMUP_ITERS at a tenth of them. In testing the numbers are
    those of the run that MODEL.WEIGHT is of; a file that does not tell has as many classes as DATASETS.TRAIN or
    DATASETS.TEST, and MAX_ITER, which no test reads, is 1.

    Args:
        cfg: the whole config, not frozen; other values stay as they are.
        is_train: complete for a training.

    Raises:
        InputError: another value of the config is wrong, the data cannot be read, or nothing tells the classes.
    """
    if cfg.MODEL.FCOS.NUM_CLASSES != 0 and cfg.SOLVER.MAX_ITER != 0:
        return
    others = cfg.clone()
    others.MODEL.FCOS.NUM_CLASSES = others.MODEL.FCOS.NUM_CLASSES or 2
    others.SOLVER.MAX_ITER = others.SOLVER.MAX_ITER or 1
    check_values(others)
    if is_train:
        _complete_training(cfg)
    else:
        _complete_test(cfg)


def _complete_training(cfg: Config) -> None:
    classes, images = _training_data(cfg)
    derived = []
    if cfg.MODEL.FCOS.NUM_CLASSES == 0:
        cfg.MODEL.FCOS.NUM_CLASSES = classes + 1
        derived.append(f"MODEL.FCOS.NUM_CLASSES {classes + 1}")
    if cfg.SOLVER.MAX_ITER == 0:
        _set_length(cfg, images)
        keys = ("MAX_ITER", *["STEPS"] * (cfg.SOLVER.SCHEDULE == "steps"), "WARMUP_ITERS")
        derived += [f"SOLVER.{key} {cfg.SOLVER[key]}" for key in keys]
    data = f"{images} images of {classes} class{'es' if classes > 1 else ''} in {' + '.join(cfg.DATASETS.TRAIN)}"
    cfg.note(f"Derived from {data}: {', '.join(derived)}")


def _set_length(cfg: Config, images: int) -> None:
    solver = cfg.SOLVER
    last = max(round(solver.ITER_FACTOR * _IMAGES_SHOWN * images**0.75 / solver.IMS_PER_BATCH), 1)
    solver.MAX_ITER = last
    if not (solver.STEPS and cfg.was_merged("SOLVER.STEPS")):
        solver.STEPS = (round(last * 2 / 3), round(last * 8 / 9))
    beyond = solver.SCHEDULE == "steps" and max(solver.STEPS) > last
    wanted = f"(), for steps at two thirds and eight ninths of the {last} iterations that SOLVER.MAX_ITER 0 stands for"
    require(not beyond, "SOLVER.STEPS", solver.STEPS, wanted)
    solver.WARMUP_ITERS = min(solver.WARMUP_ITERS, last // _WARMUP_SHARE)


def _training_data(cfg: Config) -> tuple[int, int]:
    """Return how many classes and images DATASETS.TRAIN has, without the images that are not trained on."""
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty: name at least one dataset to train on.")
    names: tuple[str, ...] = ()
    images = 0
    for dataset in cfg.DATASETS.TRAIN:
        source = make_source(cfg, dataset)
        if isinstance(source, OwnDataset):
            ann_file, listed, count = source.ann_file, source.category_names, len(source)
        else:
            ann_file, table = source[1], read_ahead(source[1])
            listed = tuple(own_names(table, cfg.DATASETS.LABEL_ORDER).values())
            count = len(kept_rows(table, is_train=True, keep_empty=cfg.DATALOADER.KEEP_EMPTY_IMAGES))
        if names and not cfg.DATASETS.FEWER_CATEGORIES:
            check_classes(ann_file, listed, names, f"{cfg.DATASETS.TRAIN[0]}, which is trained on too", may_lack=False)
        names = tuple(dict.fromkeys((*names, *listed)))
        images += count
    if not names and cfg.MODEL.FCOS.NUM_CLASSES == 0:
        raise _unknown_classes("no dataset of DATASETS.TRAIN lists its classes")
    return len(names), images


def _complete_test(cfg: Config) -> None:
    source = weights_source(cfg.MODEL.WEIGHT, cfg.PATHS_CATALOG)
    meta = read_meta(source) if source else CheckpointMeta()
    trained = _trained_values(meta)
    if cfg.MODEL.FCOS.NUM_CLASSES == 0:
        cfg.MODEL.FCOS.NUM_CLASSES = _tested_classes(cfg, meta, trained.get("MODEL.FCOS.NUM_CLASSES"))
        cfg.note(f"MODEL.FCOS.NUM_CLASSES is {cfg.MODEL.FCOS.NUM_CLASSES}, as the weights or else the data have it")
    if cfg.SOLVER.MAX_ITER == 0:
        former = trained.get("SOLVER.MAX_ITER")
        cfg.SOLVER.MAX_ITER = former if _is_count(former) else 1


def _trained_values(meta: CheckpointMeta) -> dict[str, Any]:
    """Return the config values of the run that saved the weights; {} if the file has none that can be read."""
    try:
        return config_values(meta.config or "")
    except ValueError:
        return {}


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _tested_classes(cfg: Config, meta: CheckpointMeta, trained: object) -> int:
    """Return NUM_CLASSES; `trained` is that of the run that saved the weights, if they tell."""
    if _is_count(trained):
        return trained
    if meta.categories:
        return len(meta.categories) + 1
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if names := listed_names(cfg, dataset):
            return len(names) + 1
    weights = f"'{cfg.MODEL.WEIGHT}' does" if cfg.MODEL.WEIGHT else "MODEL.WEIGHT is empty, so the weights do"
    raise _unknown_classes(f"{weights} not name classes, and no dataset of DATASETS.TRAIN and TEST that is there does")


def _unknown_classes(reason: str) -> InputError:
    return InputError(
        f"MODEL.FCOS.NUM_CLASSES is 0, which leaves it to the data, but {reason}: write the number of classes plus one "
        "for the background."
    )
