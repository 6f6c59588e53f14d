"""Build the backbone that a config names."""

from collections import OrderedDict

from torch import nn

from fcos_core.config import Config
from fcos_core.errors import InputError, require
from fcos_core.modeling.registry import BACKBONES


def build_backbone(cfg: Config) -> nn.Module:
    """Build what MODEL.BACKBONE.CONV_BODY names; raise InputError for an unknown name or settings that do not fit."""
    name, strides = cfg.MODEL.BACKBONE.CONV_BODY, list(cfg.MODEL.FCOS.FPN_STRIDES)
    if name == "MNV2-FPN-RETINANET":
        raise InputError(
            f"The MobileNetV2 backbone (MODEL.BACKBONE.CONV_BODY '{name}') is not built yet. "
            f"Choose one of {', '.join(BACKBONES)}."
        )
    backbone = BACKBONES.build(name, cfg)
    wanted = f"{list(backbone.strides)}, the strides of the levels of {name} with these settings"
    require(strides == list(backbone.strides), "MODEL.FCOS.FPN_STRIDES", strides, wanted)
    return backbone


def body_with_neck(body: nn.Module, neck: nn.Module) -> nn.Sequential:
    """Join body and neck in one module that publishes the neck's `out_channels`, `strides` and `level_sizes`."""
    model = nn.Sequential(OrderedDict([("body", body), ("fpn", neck)]))
    model.out_channels, model.strides, model.level_sizes = neck.out_channels, neck.strides, neck.level_sizes
    return model


def num_levels(cfg: Config) -> int:
    """Return the number of levels in MODEL.FCOS.FPN_STRIDES; raise InputError unless it is 5 or 6."""
    strides = list(cfg.MODEL.FCOS.FPN_STRIDES)
    require(len(strides) in (5, 6), "MODEL.FCOS.FPN_STRIDES", strides, "the strides of 5 or 6 levels")
    return len(strides)
