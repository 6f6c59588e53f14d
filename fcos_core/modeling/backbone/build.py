"""Build the backbone that a config names."""

from collections import OrderedDict

from torch import nn

from fcos_core.config import Config
from fcos_core.errors import InputError
from fcos_core.modeling.registry import BACKBONES


def build_backbone(cfg: Config) -> nn.Module:
    """The backbone and neck that MODEL.BACKBONE.CONV_BODY names.

    Raises:
        InputError: an unknown name, or settings that do not fit each other.
    """
    backbone = BACKBONES.build(cfg.MODEL.BACKBONE.CONV_BODY, cfg)
    strides = list(cfg.MODEL.FCOS.FPN_STRIDES)
    if strides != list(backbone.strides):
        raise InputError(
            f"MODEL.FCOS.FPN_STRIDES is {strides}, but {cfg.MODEL.BACKBONE.CONV_BODY} with these settings has "
            f"levels of strides {list(backbone.strides)}."
        )
    return backbone


def body_with_neck(body: nn.Module, neck: nn.Module) -> nn.Sequential:
    """Body and neck as one module that publishes the neck's `out_channels`, `strides` and `level_sizes`."""
    model = nn.Sequential(OrderedDict([("body", body), ("fpn", neck)]))
    model.out_channels, model.strides = neck.out_channels, neck.strides
    if hasattr(neck, "level_sizes"):
        model.level_sizes = neck.level_sizes
    return model


def num_levels(cfg: Config) -> int:
    """Return the number of levels that MODEL.FCOS.FPN_STRIDES names, 5 or 6.

    Raises:
        InputError: it names another number.
    """
    count = len(cfg.MODEL.FCOS.FPN_STRIDES)
    if count not in (5, 6):
        raise InputError(f"MODEL.FCOS.FPN_STRIDES must name 5 or 6 levels; it names {count}.")
    return count


@BACKBONES.register("MNV2-FPN-RETINANET")
def build_mobilenet_fpn(cfg: Config) -> nn.Module:
    raise InputError("The MobileNetV2 backbone (MODEL.BACKBONE.CONV_BODY 'MNV2-FPN-RETINANET') is not built yet.")
