"""Resize, augment and flip an RGB image and its boxes, as a plan says."""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fcos_core.data.augment import Source, augment
from fcos_core.data.plan import SamplePlan
from fcos_core.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList


def transform(
    image: Image.Image, target: BoxList, plan: SamplePlan, others: Mapping[int, Source] | None = None
) -> tuple[Tensor, BoxList]:
    """Resize and augment, then flip; the result depends on the arguments alone.

    Args:
        image: RGB image.
        target: boxes on the image, in any mode.
        plan: the size to resize to, by which rule, the augmentation and the flip.
        others: dataset index to the other images and boxes that the augmentation takes, see `augment`.

    Returns:
        RGB pixels (H, W, 3), uint8 or float32 as `Resize` gives them, and the boxes on them. The arguments are not
        changed.
    """
    if plan.augmentation is not None:
        pixels, target = augment({**(others or {}), plan.index: (image, target)}, plan)
    else:
        pixels = plan.resize(torch.from_numpy(np.array(image)), plan.size)
        target = target.resize(plan.size)
    if plan.flip:
        return pixels.flip(1), target.transpose(FLIP_LEFT_RIGHT)
    return pixels, target
