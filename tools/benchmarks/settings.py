"""Settings of a benchmark run, with defaults per device."""

from dataclasses import dataclass

import torch

from fcos_core.errors import InputError, require


@dataclass(frozen=True)
class Settings:
    """Sizes and repetitions, the same for every contender.

    Attributes:
        device: device of every measurement.
        models: names of files in configs/fcos, without ".yaml".
        height, width: size of the network's input in pixels, multiples of 32.
        batch: images per batch for throughput, operators and the loader.
        train_batch: images per training step.
        candidates: class scores per image above the score threshold.
        rounds: measurements of each contender.
        warmup: calls of each contender before its first measurement.
        precision: precision of ours in the measures that take only one precision.
        coco_scale: size of the annotation file and of the evaluation, as a share of COCO's size.
        image_folder: folder of JPEG files for the data loader; None to draw images.
    """

    device: torch.device
    models: tuple[str, ...]
    height: int
    width: int
    batch: int
    train_batch: int
    candidates: int
    rounds: int
    warmup: int
    precision: str
    coco_scale: float
    image_folder: str | None = None

    def __post_init__(self) -> None:
        for side in ("height", "width"):
            value = getattr(self, side)
            require(value >= 32 and value % 32 == 0, f"--{side}", value, "a multiple of 32")
        for name in ("batch", "train_batch", "candidates", "rounds", "warmup"):
            require(getattr(self, name) >= 1, f"--{name.replace('_', '-')}", getattr(self, name), "1 or more")
        require(0 < self.coco_scale <= 1, "--coco-scale", self.coco_scale, "a share, more than 0 and at most 1")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("--device is cuda, but PyTorch finds no CUDA device: write --device cpu.")


def default_settings(device: str) -> dict:
    """Return all settings except the device: sizes of the published table on CUDA, smaller sizes on a CPU."""
    shared = {"train_batch": 2, "candidates": 2000, "coco_scale": 1.0, "image_folder": None}
    models = ("fcos_R_50_5l_2x", "fcos_hrnet_w18_5l_2x", "fcos_hrnet_w32_5l_2x", "fcos_hrnet_w40_6l_3x")
    if torch.device(device).type == "cuda":
        sizes = {"height": 800, "width": 1344, "batch": 8, "rounds": 30, "warmup": 5}
        return {**shared, **sizes, "models": models, "precision": "bfloat16"}
    sizes = {"height": 320, "width": 544, "batch": 2, "rounds": 3, "warmup": 2}
    return {**shared, **sizes, "models": models[:2], "precision": "float32"}
