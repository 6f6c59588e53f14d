"""Build the backbone that a config names."""

from collections import OrderedDict

from torch import nn

from fcos_core.config import Config
from fcos_core.errors import InputError, require
from fcos_core.modeling.registry import BACKBONES


def build_backbone(cfg: Config) -> nn.Module:
    """Build the backbone and neck that MODEL.BACKBONE.CONV_BODY names.

    Raises:
        InputError: the name is unknown or not built yet, or its settings contradict each other.
    """
    name, strides = cfg.MODEL.BACKBONE.CONV_BODY, list(cfg.MODEL.FCOS.FPN_STRIDES)
    if name == "MNV2-FPN-RETINANET":
        raise InputError(
            f"The MobileNetV2 backbone (MODEL.BACKBONE.CONV_BODY '{name}') is not built yet. "
            f"Choose one of {', '.join(BACKBONES)}."
        )
    backbone = BACKBONES.build(name, cfg)
    expected = list(backbone.strides)
    wanted = f"{expected}, the strides of the levels of {name} with these settings"
    require(strides == expected, "MODEL.FCOS.FPN_STRIDES", strides, wanted)
    return backbone


def body_with_neck(body: nn.Module, neck: nn.Module) -> nn.Sequential:
    """Join body and neck in one module that publishes the neck's `out_channels`, `strides` and `level_sizes`."""
    model = nn.Sequential(OrderedDict([("body", body), ("fpn", neck)]))
    model.out_channels, model.strides = neck.out_channels, neck.strides
    if hasattr(neck, "level_sizes"):
        model.level_sizes = neck.level_sizes
    return model


def num_levels(cfg: Config) -> int:
    """Return the number of levels in MODEL.FCOS.FPN_STRIDES, 5 or 6.

    Raises:
        InputError: MODEL.FCOS.FPN_STRIDES has another number of levels.
    """
    strides = list(cfg.MODEL.FCOS.FPN_STRIDES)
    require(len(strides) in (5, 6), "MODEL.FCOS.FPN_STRIDES", strides, "the strides of 5 or 6 levels")
    return len(strides)
