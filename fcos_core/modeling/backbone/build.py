"""Build the backbone that a config names."""

import re
from collections import OrderedDict

from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.errors import InputError, require
from fcos_core.layers.sync_batch_norm import SyncBatchNorm
from fcos_core.modeling.registry import BACKBONES
from fcos_core.utils import comm

# Bodies of Faster R-CNN, Mask R-CNN and their kin in published YAML files.
_OF_OTHER_DETECTORS = re.compile(r".*-(C4|C5|FPN)|FBNet.*")


def build_backbone(cfg: Config) -> nn.Module:
    """Build what MODEL.BACKBONE.CONV_BODY names; raise InputError for an unknown name or settings that do not fit.

    A builder that publishes no `strides`, as those of published code, is taken to have those of FPN_STRIDES.
    """
    name, strides = cfg.MODEL.BACKBONE.CONV_BODY, list(cfg.MODEL.FCOS.FPN_STRIDES)
    if name not in BACKBONES and _OF_OTHER_DETECTORS.fullmatch(name):
        raise InputError(
            f"MODEL.BACKBONE.CONV_BODY {name!r} is the body of another detector (Faster R-CNN, Mask R-CNN, ...), and "
            f"only FCOS is built here: choose one of {', '.join(BACKBONES)}."
        )
    backbone = BACKBONES.build("timm:NAME" if name.startswith("timm:") else name, cfg)
    if not isinstance(getattr(backbone, "out_channels", None), int):
        raise InputError(
            f"The builder of MODEL.BACKBONE.CONV_BODY {name!r} must return a module with the attribute out_channels, "
            f"the number of channels of every level; it returned {type(backbone).__name__}."
        )
    published = list(getattr(backbone, "strides", strides))
    wanted = f"{published}, the strides of the levels of {name} with these settings"
    require(strides == published, "MODEL.FCOS.FPN_STRIDES", strides, wanted)
    return backbone


def body_with_neck(body: nn.Module, neck: nn.Module) -> nn.Sequential:
    """Join body and neck in one module that publishes the neck's `out_channels`, `strides` and `level_sizes`."""
    model = nn.Sequential(OrderedDict([("body", body), ("fpn", neck)]))
    model.out_channels, model.strides, model.level_sizes = neck.out_channels, neck.strides, neck.level_sizes
    return model


def batch_norm(cfg: Config) -> type[nn.Module]:
    """Return the class of norms that are trained: BatchNorm, or SyncBatchNorm where the config asks for it."""
    if not (cfg.MODEL.SYNCBN or cfg.MODEL.USE_SYNCBN):
        return nn.BatchNorm2d
    # PyTorch's SyncBatchNorm is a fused kernel that only GPUs have.
    return SyncBatchNorm if cfg.MODEL.DEVICE == "cpu" else nn.SyncBatchNorm


def check_batch_norm_size(images: Tensor, stride: int, norm: type[nn.Module]) -> None:
    """Raise InputError if a `norm` that is trained would see one value per channel on the map of `stride`."""
    count, _, height, width = images.shape
    values = count * -(-height // stride) * -(-width // stride)
    if values == 1 and (norm is nn.BatchNorm2d or comm.get_world_size() == 1):
        raise InputError(
            f"One image of {width}x{height} pixels is too small to train BatchNorms with: the map of stride {stride} "
            "has one value per channel. Raise INPUT.MIN_SIZE_TRAIN or the images per process (SOLVER.IMS_PER_BATCH)."
        )


def num_levels(cfg: Config) -> int:
    """Return the number of levels in MODEL.FCOS.FPN_STRIDES; raise InputError unless it is 5 or 6."""
    strides = list(cfg.MODEL.FCOS.FPN_STRIDES)
    require(len(strides) in (5, 6), "MODEL.FCOS.FPN_STRIDES", strides, "the strides of 5 or 6 levels")
    return len(strides)
