"""Data loaders from the config."""

import numpy as np
import torch

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.config.paths_catalog import dataset_paths
from fcos_core.data.coco import COCODataset, ConcatCOCODataset, check_num_classes
from fcos_core.data.collate import BatchCollator
from fcos_core.data.loader import LEAVE_OUT, REPLACE, STOP, BatchLoader, SampleReader
from fcos_core.data.samplers import PaddedSize, TestBatchSampler, TrainBatchSampler, TrainSampler
from fcos_core.data.transforms import Transform
from fcos_core.errors import InputError
from fcos_core.structures.image_list import PixelNormalization
from fcos_core.utils import comm


def make_data_loader(
    cfg: Config, is_train: bool = True, is_distributed: bool = False, start_iter: int = 0
) -> BatchLoader | list[BatchLoader]:
    """The training loader, or one test loader for each name of DATASETS.TEST.

    Args:
        cfg: the whole config.
        is_train: which of the two.
        is_distributed: share the images among the processes of torch.distributed.
        start_iter: iterations already trained; the training loader goes from the next one to SOLVER.MAX_ITER.

    Raises:
        InputError: a key, an annotation file or a folder cannot be used.
    """
    rank, world_size = (comm.get_rank(), comm.get_world_size()) if is_distributed else (0, 1)
    check_values(cfg)
    if is_train:
        return _make_train_loader(cfg, rank, world_size, start_iter)
    return [_make_test_loader(cfg, name, rank, world_size) for name in cfg.DATASETS.TEST]


def build_dataset(cfg: Config, name: str, is_train: bool) -> COCODataset:
    """The dataset `name` of the catalog, its categories compared with MODEL.FCOS.NUM_CLASSES.

    Raises:
        InputError: see `COCODataset`, `dataset_paths` and `check_num_classes`.
    """
    img_dir, ann_file = dataset_paths(name, cfg.DATASETS.DATA_DIR, cfg.DATASETS.CATALOG)
    dataset = COCODataset(
        img_dir,
        ann_file,
        is_train=is_train,
        keep_empty=cfg.DATALOADER.KEEP_EMPTY_IMAGES,
        check_files=not cfg.DATALOADER.SKIP_UNREADABLE,
    )
    check_num_classes(dataset, cfg.MODEL.FCOS.NUM_CLASSES, name)
    return dataset


def build_transform(cfg: Config, is_train: bool) -> Transform:
    """Training: random scale and flip. Testing: one scale, no flip."""
    if not is_train:
        return Transform((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST, 0.0)
    lowest, highest = cfg.INPUT.MIN_SIZE_RANGE_TRAIN
    min_sizes = cfg.INPUT.MIN_SIZE_TRAIN if lowest == -1 else range(lowest, highest + 1)
    return Transform(min_sizes, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.FLIP_PROB_TRAIN)


def build_collator(cfg: Config) -> BatchCollator:
    """Pads to DATALOADER.SIZE_DIVISIBILITY; batches are normalized as INPUT says."""
    normalization = PixelNormalization(tuple(cfg.INPUT.PIXEL_MEAN), tuple(cfg.INPUT.PIXEL_STD), cfg.INPUT.TO_BGR255)
    return BatchCollator(cfg.DATALOADER.SIZE_DIVISIBILITY, normalization)


def image_sizes(dataset: COCODataset | ConcatCOCODataset) -> np.ndarray:
    """(N, 2) int64, width and height of each image in pixels."""
    infos = (dataset.image_info(index) for index in range(len(dataset)))
    return np.array([(info["width"], info["height"]) for info in infos], dtype=np.int64).reshape(-1, 2)


def _make_train_loader(cfg: Config, rank: int, world_size: int, start_iter: int) -> BatchLoader:
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty: name at least one dataset to train on.")
    datasets = [build_dataset(cfg, name, is_train=True) for name in cfg.DATASETS.TRAIN]
    dataset = datasets[0] if len(datasets) == 1 else ConcatCOCODataset(datasets)
    sizes = image_sizes(dataset)
    portrait = sizes[:, 0] < sizes[:, 1]
    groups = portrait if cfg.DATALOADER.ASPECT_RATIO_GROUPING else np.zeros_like(portrait)
    sampler = TrainSampler(groups, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED)
    transform = build_transform(cfg, is_train=True)
    collate = build_collator(cfg)
    fixed = _longest_sides(cfg, transform) if cfg.DATALOADER.PAD_TO_FIXED_SIZE else None
    padded_size = PaddedSize(sizes, transform.output_size, cfg.SEED, collate.size_divisible, fixed)
    unreadable = REPLACE if cfg.DATALOADER.SKIP_UNREADABLE else STOP
    return BatchLoader(
        SampleReader(dataset, transform, cfg.SEED, unreadable),
        TrainBatchSampler(sampler, padded_size, start_iter, cfg.SOLVER.MAX_ITER, rank, world_size),
        collate,
        cfg.DATALOADER.NUM_WORKERS,
        pin_memory=torch.device(cfg.MODEL.DEVICE).type == "cuda",
    )


def _longest_sides(cfg: Config, transform: Transform) -> tuple[int, int]:
    """(longer, shorter) side in pixels that no resized training image passes."""
    longest = cfg.INPUT.MAX_SIZE_TRAIN
    return longest, min(max(transform.resize.min_sizes), longest)


def _make_test_loader(cfg: Config, name: str, rank: int, world_size: int) -> BatchLoader:
    dataset = build_dataset(cfg, name, is_train=False)
    unreadable = LEAVE_OUT if cfg.DATALOADER.SKIP_UNREADABLE else STOP
    return BatchLoader(
        SampleReader(dataset, build_transform(cfg, is_train=False), cfg.SEED, unreadable),
        TestBatchSampler(len(dataset), cfg.TEST.IMS_PER_BATCH, rank, world_size),
        build_collator(cfg),
        cfg.DATALOADER.NUM_WORKERS,
        pin_memory=torch.device(cfg.MODEL.DEVICE).type == "cuda",
    )
