"""Build datasets and data loaders from the config."""

import numpy as np
import torch

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.data.augment_plan import Augmenter, find_rare_objects
from fcos_core.data.coco import COCODataset
from fcos_core.data.collate import BatchCollator
from fcos_core.data.concat import AnyDataset, ConcatCOCODataset, check_num_classes
from fcos_core.data.loader import BatchLoader
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.data.reader import BatchReader
from fcos_core.data.resize import Resize, opencv
from fcos_core.data.samplers import BatchPlanner, TestBatchSampler, TrainBatchSampler, TrainSampler
from fcos_core.data.user_catalog import make_source
from fcos_core.errors import InputError
from fcos_core.structures.image_list import PixelNormalization
from fcos_core.utils import comm


def make_data_loader(
    cfg: Config, is_train: bool = True, is_distributed: bool = False, start_iter: int = 0
) -> BatchLoader | list[BatchLoader]:
    """Make the training loader, or one test loader for each name of DATASETS.TEST.

    Args:
        cfg: the whole config.
        is_train: make the training loader.
        is_distributed: share the images among the ranks of torch.distributed.
        start_iter: iterations already trained; the training loader goes from the next one to SOLVER.MAX_ITER.

    Raises:
        InputError: a key, an annotation file or a folder cannot be used.
    """
    rank, world_size = (comm.get_rank(), comm.get_world_size()) if is_distributed else (0, 1)
    check_values(cfg)
    if is_train:
        return _make_train_loader(cfg, rank, world_size, start_iter)
    return [_make_test_loader(cfg, name, rank, world_size) for name in cfg.DATASETS.TEST]


def build_dataset(cfg: Config, name: str, is_train: bool) -> COCODataset | OwnDataset:
    """Build the dataset `name` of the catalog.

    Compare the categories of a dataset to train on with MODEL.FCOS.NUM_CLASSES. Those of other datasets are compared
    with the detector's classes when it is tested: only then their names are known.

    Raises:
        InputError: see `COCODataset`, `make_source` and `check_num_classes`.
    """
    source = make_source(cfg, name)
    dataset = source if isinstance(source, OwnDataset) else _build_coco(cfg, *source, is_train)
    if name in cfg.DATASETS.TRAIN:
        num_classes = cfg.MODEL.FCOS.NUM_CLASSES
        advice = f"To use weights of {num_classes - 1} classes, set DATASETS.FEWER_CATEGORIES True instead."
        check_num_classes(dataset, num_classes, name, advice)
    return dataset


def _build_coco(cfg: Config, img_dir: str, ann_file: str, is_train: bool) -> COCODataset:
    return COCODataset(
        img_dir,
        ann_file,
        is_train=is_train,
        keep_empty=cfg.DATALOADER.KEEP_EMPTY_IMAGES,
        check_files=not cfg.DATALOADER.SKIP_UNREADABLE,
        label_order=cfg.DATASETS.LABEL_ORDER,
        fewer_categories=cfg.DATASETS.FEWER_CATEGORIES,
        max_pixels=cfg.INPUT.MAX_PIXELS,
        continuous=cfg.MODEL.FCOS.PIXELS == "continuous",
    )


def build_planner(
    cfg: Config, image_sizes: np.ndarray, is_train: bool, augmenter: Augmenter | None = None
) -> BatchPlanner:
    """Build the planner of a dataset whose images have these sizes, (N, 2) int64, width and height in pixels.

    Training draws the scale, the flip and what `augmenter` draws. Testing uses one scale and no flip.
    """
    if not is_train:
        return build_view_planners(cfg, image_sizes)[0]
    seed, size_divisible, resize = cfg.SEED, cfg.DATALOADER.SIZE_DIVISIBILITY, Resize(cfg.INPUT.RESIZE)
    lowest, highest = cfg.INPUT.MIN_SIZE_RANGE_TRAIN
    return BatchPlanner(
        image_sizes,
        cfg.INPUT.MIN_SIZE_TRAIN if lowest == -1 else range(lowest, highest + 1),
        cfg.INPUT.MAX_SIZE_TRAIN,
        cfg.INPUT.FLIP_PROB_TRAIN,
        seed,
        size_divisible,
        pad_to_longest=cfg.DATALOADER.PAD_TO_FIXED_SIZE,
        resize=resize,
        augmenter=augmenter,
    )


def build_augmenter(cfg: Config, dataset: AnyDataset) -> Augmenter | None:
    """Build the augmenter that INPUT.AUG describes for training on `dataset`; return None if all of it is off.

    Raises:
        InputError: see `find_rare_objects`; or photometric distortion is on and OpenCV cannot be imported.
    """
    keys = cfg.INPUT.AUG
    probabilities = {key.lower(): keys[key] for key in keys if key.endswith("_PROB")}
    if not any(probabilities.values()) and tuple(keys.SCALE_RANGE) == (1, 1):
        return None
    if keys.PHOTOMETRIC_PROB:
        opencv()
    mean, to_bgr = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.TO_BGR255
    red, green, blue = (mean[2], mean[1], mean[0]) if to_bgr else (255 * channel for channel in mean)
    return Augmenter(
        len(dataset),
        (float(red), float(green), float(blue)),
        **probabilities,
        scale_range=tuple(keys.SCALE_RANGE),
        zoom_out_max=keys.ZOOM_OUT_MAX,
        # Rounded, because (1 - 0.9) * 10 is less than 1 in floats.
        mosaic_until=round((1 - keys.MOSAIC_OFF_SHARE) * cfg.SOLVER.MAX_ITER, 6),
        rare=find_rare_objects(dataset) if keys.COPY_RARE_PROB else None,
    )


def build_view_planners(cfg: Config, image_sizes: np.ndarray) -> list[BatchPlanner]:
    """Build a planner for each view that a test takes of its images, see `build_planner`.

    The first view is the one without augmentation. TEST.BBOX_AUG.ENABLED adds this view mirrored if H_FLIP is set, and
    those of SCALES, each followed by its mirror image if SCALE_H_FLIP is set.
    """
    test, augmentation = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST), cfg.TEST.BBOX_AUG
    views = [(*test, False)]
    if augmentation.ENABLED:
        views += [(*test, True)] if augmentation.H_FLIP else []
        flips = (False, True) if augmentation.SCALE_H_FLIP else (False,)
        views += [(scale, augmentation.MAX_SIZE, flip) for scale in augmentation.SCALES for flip in flips]
    seed, size_divisible, resize = cfg.SEED, cfg.DATALOADER.SIZE_DIVISIBILITY, Resize(cfg.INPUT.RESIZE)
    return [
        BatchPlanner(image_sizes, (min_size,), max_size, float(flip), seed, size_divisible, resize=resize)
        for min_size, max_size, flip in views
    ]


def build_collator(cfg: Config) -> BatchCollator:
    """Build the collator, which pads to DATALOADER.SIZE_DIVISIBILITY."""
    return BatchCollator(cfg.DATALOADER.SIZE_DIVISIBILITY, build_normalization(cfg))


def build_normalization(cfg: Config) -> PixelNormalization:
    """Build the normalization that INPUT describes."""
    return PixelNormalization(tuple(cfg.INPUT.PIXEL_MEAN), tuple(cfg.INPUT.PIXEL_STD), cfg.INPUT.TO_BGR255)


def _make_train_loader(cfg: Config, rank: int, world_size: int, start_iter: int) -> BatchLoader:
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty: name at least one dataset to train on.")
    datasets = [build_dataset(cfg, name, is_train=True) for name in cfg.DATASETS.TRAIN]
    dataset = datasets[0] if len(datasets) == 1 else ConcatCOCODataset(datasets)
    # Datasets that may list fewer categories may list too many together.
    check_num_classes(dataset, cfg.MODEL.FCOS.NUM_CLASSES, " + ".join(cfg.DATASETS.TRAIN))
    sizes = dataset.image_sizes
    planner = build_planner(cfg, sizes, is_train=True, augmenter=build_augmenter(cfg, dataset))
    portrait = sizes[:, 0] < sizes[:, 1]
    groups = portrait if cfg.DATALOADER.ASPECT_RATIO_GROUPING else np.zeros_like(portrait)
    sampler = TrainSampler(groups, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED)
    return BatchLoader(
        BatchReader(dataset, build_collator(cfg), cfg.DATALOADER.SKIP_UNREADABLE, planner.replacement),
        TrainBatchSampler(sampler, planner, start_iter, cfg.SOLVER.MAX_ITER, rank, world_size),
        cfg.DATALOADER.NUM_WORKERS,
        pin_memory=_uses_gpu(cfg),
    )


def _make_test_loader(cfg: Config, name: str, rank: int, world_size: int) -> BatchLoader:
    dataset = build_dataset(cfg, name, is_train=False)
    planners = build_view_planners(cfg, dataset.image_sizes)
    return BatchLoader(
        BatchReader(dataset, build_collator(cfg), cfg.DATALOADER.SKIP_UNREADABLE),
        TestBatchSampler(planners, cfg.TEST.IMS_PER_BATCH, rank, world_size),
        cfg.DATALOADER.NUM_WORKERS,
        pin_memory=_uses_gpu(cfg),
    )


def _uses_gpu(cfg: Config) -> bool:
    return torch.device(cfg.MODEL.DEVICE).type == "cuda"
