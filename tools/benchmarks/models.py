"""The detectors that are measured, and what they are shown."""

import difflib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos_core.config import Config, cfg
from fcos_core.errors import InputError
from fcos_core.modeling.detector import Detector, build_detection_model
from fcos_core.structures.bounding_box import BoxList

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "fcos"
SEED = 0


def load_config(model: str, device: torch.device, *opts: object) -> Config:
    """The config of configs/fcos/MODEL.yaml, then `opts`, key by value.

    Raises:
        InputError: there is no such file.
    """
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if model not in known:
        near = difflib.get_close_matches(model, known, n=1, cutoff=0.0)
        nearest = f"the nearest name is '{near[0]}'" if near else "the folder is not there: run from a checkout"
        raise InputError(f"There is no model '{model}' in '{CONFIGS}'; {nearest}.")
    config = cfg.clone()
    config.merge_from_file(str(CONFIGS / f"{model}.yaml"))
    config.merge_from_list(["MODEL.DEVICE", str(device), *opts])
    return config


def make_detector(config: Config, images: Tensor, candidates: int) -> Detector:
    """A random detector in evaluation mode that finds as much as a trained one; a function of its arguments alone.

    Args:
        images: (N, 3, H, W) RGB in 0..1, on the device that the detector is then on.
        candidates: classes at locations above the score threshold, an image.
    """
    torch.manual_seed(SEED)
    detector = build_detection_model(config).to(images.device).eval()
    head = detector.rpn.head
    with torch.no_grad():
        # Boxes that reach about four cells to each side: neighbours suppress each other, as trained ones do.
        head.bbox_pred.weight.mul_(0.1)
        head.bbox_pred.bias.fill_(1)
        for scale, stride in zip(head.scales, config.MODEL.FCOS.FPN_STRIDES, strict=True):
            scale.scale.fill_(math.log(4 * stride))
        logits, _, _ = head(detector.backbone(network_input(config, images)))
        threshold = math.log(config.MODEL.FCOS.INFERENCE_TH / (1 - config.MODEL.FCOS.INFERENCE_TH))
        flat = torch.cat([level.flatten() for level in logits])
        head.cls_logits.bias += bias_shift(threshold - flat, candidates * len(images))
    return detector


def bias_shift(needed: Tensor, count: int) -> Tensor:
    """What to add to the class bias for `count` classes at locations to be candidates.

    Args:
        needed: (K,), of each class at each location, how far its logit lies below where it becomes a candidate.
        count: half of K where it is more than that, as on images of a few cells.
    """
    count = min(count, len(needed) // 2)
    return needed.topk(count + 1, largest=False).values[-2:].mean()


def count_candidates(config: Config, detector: Detector, images: Tensor) -> float:
    """Classes at locations that pass the score threshold, the mean of the images."""
    with torch.no_grad():
        logits, _, _ = detector.rpn.head(detector.backbone(network_input(config, images)))
    passed = sum((level.sigmoid() > config.MODEL.FCOS.INFERENCE_TH).sum().item() for level in logits)
    return passed / len(images)


def make_images(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """(N, 3, H, W) RGB float32 in 0..1: blotches of random colour with some noise."""
    generator = torch.Generator().manual_seed(SEED)
    blotches = torch.rand(count, 3, max(height // 32, 2), max(width // 32, 2), generator=generator)
    smooth = F.interpolate(blotches, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.randn(count, 3, height, width, generator=generator)
    return (smooth + 0.05 * noise).clamp_(0, 1).to(device)


def network_input(config: Config, images: Tensor) -> Tensor:
    """RGB in 0..1 as the network takes it: BGR in 0..255, minus the mean."""
    mean = images.new_tensor(config.INPUT.PIXEL_MEAN)[:, None, None]
    return images.flip(1) * 255 - mean


def make_targets(
    count: int, boxes: int, height: int, width: int, num_classes: int, device: torch.device
) -> list[BoxList]:
    """Per image `boxes` boxes, sides from 16 pixels to half of the image's, the small ones more often."""
    generator = torch.Generator().manual_seed(SEED)
    extent = torch.tensor([width, height], dtype=torch.float32)
    targets = []
    for _ in range(count):
        sides = 16 * (extent / 32) ** torch.rand(boxes, 2, generator=generator)
        corner = torch.rand(boxes, 2, generator=generator) * (extent - sides)
        target = BoxList(torch.cat([corner, corner + sides - 1], dim=1), (width, height))
        target.add_field("labels", torch.randint(1, num_classes, (boxes,), generator=generator))
        targets.append(target.to(device))
    return targets
