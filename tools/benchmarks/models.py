"""Make the measured detectors and their inputs: random weights, images and boxes, all drawn from a seed."""

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
    """Load configs/fcos/MODEL.yaml and merge `opts`, [key, value, ...].

    Raises:
        InputError: the file does not exist.
    """
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if model not in known:
        near = difflib.get_close_matches(model, known, n=1, cutoff=0.0)[0]
        raise InputError(f"There is no model '{model}' in '{CONFIGS}'; the nearest name is '{near}'.")
    config = cfg.clone()
    config.merge_from_file(str(CONFIGS / f"{model}.yaml"))
    config.merge_from_list(["MODEL.DEVICE", str(device), *opts])
    return config


def make_detector(config: Config, images: Tensor, candidates: int) -> Detector:
    """Make a random detector in evaluation mode that finds as much as a trained detector.

    The same arguments give the same weights.

    Args:
        config: of the detector.
        images: (N, 3, H, W) RGB in 0..1; the detector is made on their device.
        candidates: class scores per image above the score threshold.
    """
    torch.manual_seed(SEED)
    detector = build_detection_model(config).to(images.device).eval()
    head = detector.rpn.head
    with torch.no_grad():
        # Boxes reach about four cells to each side, so that neighbours suppress each other as in a trained detector.
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
    """Return the shift of the class bias that makes `count` class scores candidates.

    Args:
        needed: (K,), per class score, the shift from which on the score is a candidate.
        count: number of candidates; at most K // 2 are made, which matters for images of a few cells.
    """
    count = min(count, len(needed) // 2)
    return needed.topk(count + 1, largest=False).values[-2:].mean()


def count_candidates(config: Config, detector: Detector, images: Tensor) -> float:
    """Return the number of class scores above the score threshold, as the mean over the images."""
    with torch.no_grad():
        logits, _, _ = detector.rpn.head(detector.backbone(network_input(config, images)))
    passed = sum((level.sigmoid() > config.MODEL.FCOS.INFERENCE_TH).sum().item() for level in logits)
    return passed / len(images)


def make_images(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Draw images (N, 3, H, W), RGB float32 in 0..1: blotches of random colour with some noise."""
    generator = torch.Generator().manual_seed(SEED)
    blotches = torch.rand(count, 3, max(height // 32, 2), max(width // 32, 2), generator=generator)
    smooth = F.interpolate(blotches, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.randn(count, 3, height, width, generator=generator)
    return (smooth + 0.05 * noise).clamp_(0, 1).to(device)


def network_input(config: Config, images: Tensor) -> Tensor:
    """Convert RGB in 0..1 to the input of the network: BGR in 0..255 minus the mean."""
    mean = images.new_tensor(config.INPUT.PIXEL_MEAN)[:, None, None]
    return images.flip(1) * 255 - mean


def make_targets(
    count: int, boxes: int, height: int, width: int, num_classes: int, device: torch.device
) -> list[BoxList]:
    """Draw `boxes` boxes per image, with sides from 16 pixels to half of the image; small boxes are more frequent."""
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
