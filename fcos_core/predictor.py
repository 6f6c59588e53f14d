"""Picture in, boxes out."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from fcos_core.config import Config, cfg
from fcos_core.data.build import build_collator, build_view_planners
from fcos_core.data.category_names import category_names
from fcos_core.data.collate import Sample
from fcos_core.data.image_file import read_image, to_rgb
from fcos_core.data.plan import BatchPlan
from fcos_core.data.samplers import same_size_batches
from fcos_core.data.transforms import transform
from fcos_core.engine.from_dataset import complete_config
from fcos_core.engine.inference import detect
from fcos_core.engine.test import load_detector
from fcos_core.errors import InputError
from fcos_core.evaluation.analysis import DEFAULT_THRESHOLD
from fcos_core.structures.bounding_box import BoxList
from fcos_core.weights import zoo
from fcos_core.weights.checkpoint_meta import read_meta
from fcos_core.weights.conventions import IMAGENET_HRNET, IMAGENET_RESNET

Picture = str | os.PathLike | Image.Image | np.ndarray
# A sample for each view, indexed by its position in the call; the plans of the views; (width, height) of the picture.
_Read = tuple[list[Sample], list[BatchPlan], tuple[int, int]]


class Predictor:
    """A trained detector that takes pictures as people have them and gives boxes in their pixels.

    Images are read, resized, normalized and batched as tools/test_net.py does it. Only images of one padded size share
    a batch: group normalization sees the padding, so the boxes of an image do not depend on the others. Raise
    InputError if the config, the weights or the device cannot be used.

    Args:
        config: path of a YAML file, or a config; None: the config in the checkpoint `weights`, or the file of
            configs/zoo for a zoo:// name.
        weights: a file, a URL or a name (zoo://, hf://) of a trained detector; None: MODEL.WEIGHT of the config.
        device: "cpu", "cuda" or "cuda:1"; None: MODEL.DEVICE of the config, or cuda if there is a GPU where the config
            is the checkpoint's.
        threshold: detections with a lower score are left out: one number, or one for each class name, such as the
            content of the thresholds.json that a test writes (classes that it lacks: 0.3).
        compile: run a compiled copy of the detector (see `compile_for_inference`): faster, equal up to rounding.

    Attributes:
        category_names: name of each label, from label 1 on.
        ims_per_batch: number of images that are detected on at once (TEST.IMS_PER_BATCH).
        thresholds: (C,) lowest score of each label, from label 1 on.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config | None = None,
        weights: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD,
        compile: bool = True,
    ) -> None:
        self._cfg = _merged(config, weights, device, compile)
        self._model = load_detector(self._cfg)
        self._collator = build_collator(self._cfg)
        self.category_names = category_names(self._cfg, self._model.category_names)
        self.ims_per_batch: int = self._cfg.TEST.IMS_PER_BATCH
        self.threshold = threshold

    @property
    def threshold(self) -> float | Mapping[str, float]:
        """Lowest score of a detection, or that of each class name, as it was given."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float | Mapping[str, float]) -> None:
        self.thresholds = _thresholds(threshold, self.category_names)
        self._threshold = threshold

    def read(self, path: str | os.PathLike) -> Image.Image:
        """Read an image file as RGB, upright; raise `UnreadableImageError` if it cannot be read."""
        return read_image(os.fspath(path), max_pixels=self._cfg.INPUT.MAX_PIXELS)

    def __call__(self, images: Picture | Sequence[Picture], bgr: bool = False) -> BoxList | list[BoxList]:
        """Detect objects in one image or in several; raise InputError if one is unreadable or of a wrong type or shape.

        Args:
            images: a path, a PIL image or an (H, W, 3) uint8 array in RGB; or a list of them. The picture in a file is
                turned upright as its EXIF tag says; PIL images and arrays are taken as they are.
            bgr: the channels of arrays are in the order blue, green, red, as OpenCV has them.

        Returns:
            Boxes "xyxy" in pixels of the image, best first, with fields "scores" (N,) float32, "labels" (N,) int64
            (1-based) and "names" (a list of N texts), on the CPU. A list of them for a list of images.
        """
        several = isinstance(images, (list, tuple))
        return self._detect_all(images, bgr) if several else self._detect_all([images], bgr)[0]

    def _detect_all(self, images: Sequence[Picture], bgr: bool) -> list[BoxList]:
        results: dict[int, BoxList] = {}
        pictures = (self._read(position, picture, bgr) for position, picture in enumerate(images))
        for batch in same_size_batches(pictures, _padded_sizes, self._cfg.TEST.IMS_PER_BATCH):
            results.update(self._detect_batch(batch))
        return [results[position] for position in range(len(images))]

    def _read(self, position: int, picture: Picture, bgr: bool) -> _Read:
        image = self.read(picture) if isinstance(picture, (str, os.PathLike)) else _as_rgb(picture, bgr)
        plans = [planner.plan(0, [0]) for planner in build_view_planners(self._cfg, np.array([image.size]))]
        boxes = BoxList([], image.size)
        return [(*transform(image, boxes, plan.samples[0]), position) for plan in plans], plans, image.size

    def _detect_batch(self, batch: list[_Read]) -> dict[int, BoxList]:
        samples, plans, sizes = zip(*batch, strict=True)
        images, _, positions = self._collator.gather(samples, plans[0])
        detections = detect(self._model, images, sizes, self._cfg.MODEL.DEVICE)
        return {position: self._finish(boxes) for position, boxes in zip(positions, detections, strict=True)}

    def _finish(self, boxes: BoxList) -> BoxList:
        boxes = boxes[boxes.get_field("scores") >= self.thresholds[boxes.get_field("labels") - 1]]
        boxes.add_field("names", [self.category_names[label - 1] for label in boxes.get_field("labels").tolist()])
        return boxes


def _padded_sizes(read: _Read) -> tuple[tuple[int, int], ...]:
    return tuple(plan.padded_size for plan in read[1])


def _merged(
    config: str | os.PathLike | Config | None,
    weights: str | os.PathLike | None,
    device: str | torch.device | None,
    compile: bool,
) -> Config:
    if config is None:
        merged = config_of(weights)
    elif isinstance(config, Config):
        merged = config.clone()
    else:
        merged = cfg.clone()
        merged.merge_from_file(os.fspath(config))
    merged.defrost()
    merged.TEST.COMPILE = compile
    if weights is not None:
        merged.MODEL.WEIGHT = os.fspath(weights)
    if device is not None:
        merged.MODEL.DEVICE = str(device)
    complete_config(merged, is_train=False)
    merged.freeze()
    return merged


def _thresholds(threshold: float | Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Return (C,) float32 scores; raise InputError for a class that the detector lacks or a score beyond 0 to 1."""
    by_name = threshold if isinstance(threshold, Mapping) else dict.fromkeys(names, threshold)
    for name, score in by_name.items():
        if name not in names:
            known = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
            raise InputError(
                f"A threshold is given for {name!r}, which is no class of the detector: it has {known}. Take the "
                "thresholds.json of a test of this detector."
            )
        if isinstance(score, bool) or not isinstance(score, Real) or not 0 <= score <= 1:
            raise InputError(f"The threshold of {name!r} is {score!r}: give a score from 0 to 1.")
    return torch.tensor([float(by_name.get(name, DEFAULT_THRESHOLD)) for name in names])


def config_for(config_file: str, weights: str | None, options: Sequence[str]) -> Config:
    """Return the config of a detector that a command names.

    Args:
        config_file: a YAML file; "": the config of `weights`, see `config_of`.
        weights: take the place of MODEL.WEIGHT; they tell the numbers that the file leaves to the data. None: keep it.
        options: overrides, KEY VALUE ...
    """
    config = cfg.clone() if config_file else config_of(weights)
    config.defrost()
    if config_file:
        config.merge_from_file(config_file)
    config.merge_from_list(list(options))
    config.MODEL.WEIGHT = weights or config.MODEL.WEIGHT
    complete_config(config, is_train=False)
    return config


def config_of(weights: str | os.PathLike | None) -> Config:
    """Return the config in the checkpoint `weights`, with the device of this machine; for a zoo:// name, of the zoo.

    Raise InputError if there is none.
    """
    name = zoo.published_conventions(os.fspath(weights)) if _in_zoo(weights) else ""
    if name not in ("", IMAGENET_HRNET, IMAGENET_RESNET):
        merged = cfg.clone()
        merged.merge_from_file(f"configs/zoo/{name}.yaml")
        return merged
    text = read_meta(os.fspath(weights)).config if weights is not None else None
    if text is None:
        owner = "" if weights is None else f", as '{weights}' has none"
        raise InputError(f"A detector needs a config{owner}: give the path of the YAML file that it was trained with.")
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"The config in '{weights}' is not valid YAML: give the config of its training.") from error
    if not isinstance(tree, dict):
        raise InputError(f"The config in '{weights}' has no sections: give the config of its training.")
    # A checkpoint may come from a stranger: it does not choose files of this machine to read or to run.
    tree = {key: value for key, value in tree.items() if key not in ("_BASE_", "PATHS_CATALOG")}
    merged, device = cfg.clone(), cfg.MODEL.DEVICE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"config of {Path(os.fspath(weights)).name}.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        merged.merge_from_file(str(path))
    merged.defrost()
    merged.MODEL.DEVICE = device
    return merged


def _in_zoo(weights: str | os.PathLike | None) -> bool:
    source = os.fspath(weights or "")
    return source.startswith(zoo.SCHEME) and source.removeprefix(zoo.SCHEME) in zoo.ZOO


def _as_rgb(image: Picture, bgr: bool) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"Predictor takes paths, PIL images and (H, W, 3) uint8 arrays, not {type(image).__name__}: convert it."
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"An image array must be uint8 of shape (H, W, 3); this one is {image.dtype} of shape {image.shape}: "
            "convert it to 8 bits a channel and three channels."
        )
    return Image.fromarray(image[..., ::-1] if bgr else image)
