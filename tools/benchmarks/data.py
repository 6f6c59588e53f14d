"""Measure the data loader beside a naive loader, and reading a large annotation file."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import memory
from benchmarks.report import Table, images_per_second, speedup
from benchmarks.settings import Settings
from benchmarks.synthetic import draw_jpegs, write_annotations, write_image_list
from benchmarks.timing import interleave
from fcos_core.config import Config, cfg
from fcos_core.data import make_data_loader
from fcos_core.data.coco import COCODataset
from fcos_core.data.loader import BatchLoader
from fcos_core.data.resize import Resize
from fcos_core.errors import InputError
from fcos_core.structures.image_list import to_image_list

JPEGS = 32
# Images and boxes of COCO 2017's training set.
COCO_IMAGES, COCO_BOXES = 118_000, 860_000


def loader(settings: Settings) -> list[Table]:
    """Measure JPEG files to normalized batches on one core."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        if settings.image_folder is None:
            images, source = draw_jpegs(Path(folder), JPEGS), "drawn JPEG files of 640x480"
        else:
            images, source = _jpegs(Path(settings.image_folder)), f"JPEG files of {settings.image_folder}"
        config = _loader_config(settings, images, Path(folder) / "images.json")
        ours = make_data_loader(config, is_train=False)[0]
        calls = {
            "naive": lambda: list(naive_batches(config, images, settings.device)),
            "ours": lambda: list(our_batches(ours, settings.device)),
        }
        difference = grey_levels_apart(calls["ours"](), calls["naive"]())
        timings = interleave(calls, settings.device, settings.rounds, 1)
    rows = [
        {
            "contender": name,
            **images_per_second(timing, len(images)),
            "x naive": speedup(timings, name, ["naive"]),
            "grey levels off naive": difference if name == "ours" else 0.0,
        }
        for name, timing in timings.items()
    ]
    note = (
        f"{len(images)} {source}, shorter side {config.INPUT.MIN_SIZE_TEST}, in batches of {config.TEST.IMS_PER_BATCH} "
        f"on {settings.device}; one process, one thread. `grey levels off naive`: the largest difference of a pixel."
    )
    return [Table("Data loader, one core", note, rows)]


def naive_batches(config: Config, images: list[Path], device: torch.device) -> Iterator[Tensor]:
    """Load batches with PIL and float32 NumPy, the obvious first version of a loader.

    Returns:
        Batches (N, 3, H, W), BGR in 0..255 minus the mean, padded.
    """
    mean = np.array(config.INPUT.PIXEL_MEAN, dtype=np.float32)
    size = (config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST)
    for start in range(0, len(images), config.TEST.IMS_PER_BATCH):
        batch = [naive_image(path, *size, mean) for path in images[start : start + config.TEST.IMS_PER_BATCH]]
        yield to_image_list(batch, config.DATALOADER.SIZE_DIVISIBILITY).tensors.to(device)


def naive_image(path: Path, min_size: int, max_size: int, mean: np.ndarray) -> Tensor:
    """Read and resize one image to (3, H, W) float32, BGR in 0..255 minus the mean."""
    image = Image.open(path).convert("RGB")
    image = image.resize(Resize().size(image.size, min_size, max_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).astype(np.float32)[:, :, ::-1] - mean
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def our_batches(batches: BatchLoader, device: torch.device) -> Iterator[Tensor]:
    """Iterate over normalized batches (N, 3, H, W) of our loader on `device`."""
    for images, _, _ in batches:
        yield images.to(device).normalize().tensors


def grey_levels_apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference of a pixel over all batches."""
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


def annotations(settings: Settings) -> list[Table]:
    """Measure reading an annotation file of COCO's size: seconds, memory, memory of a worker process."""
    images, boxes = round(COCO_IMAGES * settings.coco_scale), round(COCO_BOXES * settings.coco_scale)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances.json"
        write_annotations(file, images, boxes)
        made: list[COCODataset] = []
        start = time.perf_counter()
        # An annotation file takes memory of the process, so the device is always the CPU.
        used = memory.measure_memory(
            lambda: made.append(COCODataset(folder, str(file), is_train=True, check_files=False)), torch.device("cpu")
        )
        seconds = time.perf_counter() - start
        size = file.stat().st_size
    row = {
        "file MB": size / 1e6,
        "load s": seconds,
        "resident MiB added": used.added / 2**20,
        "peak MiB": used.peak / 2**20,
        "a worker's own MiB": worker_growth(made[0]) / 2**20,
    }
    note = (
        f"{images:,} images, {boxes:,} boxes with polygons; images with a usable box are kept. `a worker's own`: "
        "growth of the memory that a forked worker does not share, while the worker reads every box."
    )
    return [Table("Annotation file", note, [row])]


def worker_growth(dataset: COCODataset) -> int:
    """Return the growth in bytes of a forked worker's private memory while the worker reads every box."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_read_all, args=(dataset, sender))
    worker.start()
    growth = receiver.recv()
    worker.join()
    return growth


def _read_all(dataset: COCODataset, sender: Connection) -> None:
    dataset.ground_truth(0)
    before = memory.private_bytes()
    for index in range(len(dataset)):
        dataset.ground_truth(index)
    sender.send(memory.private_bytes() - before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread inside the context."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _jpegs(folder: Path) -> list[Path]:
    images = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:JPEGS]
    if not images:
        raise InputError(f"--image-folder: there is no JPEG file in '{folder.absolute()}': name another folder.")
    return images


def _loader_config(settings: Settings, images: list[Path], list_file: Path) -> Config:
    write_image_list(list_file, images)
    config = cfg.clone()
    options = {
        "MODEL.DEVICE": str(settings.device),
        "DATASETS.CATALOG.benchmark.img_dir": str(images[0].parent.absolute()),
        "DATASETS.CATALOG.benchmark.ann_file": str(list_file.absolute()),
        "DATASETS.TEST": ("benchmark",),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TEST": settings.height,
        "INPUT.MAX_SIZE_TEST": settings.width,
        "TEST.IMS_PER_BATCH": settings.batch,
    }
    config.merge_from_list([word for option in options.items() for word in option])
    return config
