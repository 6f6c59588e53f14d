"""Backbones by name: a body and its neck, from the config."""

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from fcos_core.errors import InputError, require
from fcos_core.layers.sync_batch_norm import SyncBatchNorm
from fcos_core.modeling.backbone.hrnet import HighResolutionNet
from fcos_core.modeling.backbone.resnet import ResNet, body_with_neck
from fcos_core.modeling.neck.fpn import FPN
from fcos_core.modeling.neck.hrfpn import HRFPN
from fcos_core.modeling.registry import BACKBONES

if TYPE_CHECKING:
    from fcos_core.config import Config


def build_backbone(cfg: "Config") -> nn.Module:
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


@BACKBONES.register("R-50-FPN-RETINANET", "R-101-FPN-RETINANET")
def build_resnet_fpn(cfg: "Config") -> nn.Module:
    resnets = cfg.MODEL.RESNETS
    if any(resnets.STAGE_WITH_DCN) or resnets.WITH_MODULATED_DCN or resnets.DEFORMABLE_GROUPS != 1:
        raise InputError("Deformable convolutions (MODEL.RESNETS.STAGE_WITH_DCN) are not built yet.")
    if cfg.MODEL.RETINANET.USE_C5:
        raise InputError("P6 is made from P5 alone: set MODEL.RETINANET.USE_C5 False.")
    body = ResNet(
        depth=int(cfg.MODEL.BACKBONE.CONV_BODY.split("-")[1]),
        num_groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT,
        checkpointed=_checkpointed(cfg, trained_norm=False),
    )
    num_levels = _num_levels(cfg)
    return body_with_neck(body, FPN(body.out_channels, resnets.BACKBONE_OUT_CHANNELS, num_levels))


@BACKBONES.register("HRNET", "HRNET-W18", "HRNET-W32", "HRNET-W40", "HRNET-W48")
def build_hrnet_hrfpn(cfg: "Config") -> nn.Module:
    hrnet = cfg.MODEL.HRNET
    if hrnet.FPN.TYPE != "HRFPN":
        raise InputError(f"MODEL.HRNET.FPN.TYPE is '{hrnet.FPN.TYPE}'; HRFPN is the only neck of HRNet.")
    for key in ("STEM_CHANNELS", "STAGE1_CHANNELS"):
        require(hrnet[key] >= 1, f"MODEL.HRNET.{key}", hrnet[key], "1 or more")
    require(hrnet.FPN.CONV_STRIDE in (1, 2), "MODEL.HRNET.FPN.CONV_STRIDE", hrnet.FPN.CONV_STRIDE, "1 or 2")
    train_norm = hrnet.TRAIN_BN or cfg.MODEL.SYNCBN
    body = HighResolutionNet(
        width=_hrnet_width(cfg),
        num_modules=_stages(hrnet.NUM_MODULES, "NUM_MODULES"),
        num_branches=_branches(hrnet.NUM_BRANCHES),
        num_blocks=_stages(hrnet.NUM_BLOCKS, "NUM_BLOCKS"),
        stem_channels=hrnet.STEM_CHANNELS,
        stage1_channels=hrnet.STAGE1_CHANNELS,
        train_norm=train_norm,
        norm=_norm(cfg),
        checkpointed=_checkpointed(cfg, train_norm),
    )
    neck = HRFPN(body.out_channels, hrnet.FPN.OUT_CHANNEL, _num_levels(cfg), hrnet.FPN.CONV_STRIDE)
    return body_with_neck(body, neck)


@BACKBONES.register("MNV2-FPN-RETINANET")
def build_mobilenet_fpn(cfg: "Config") -> nn.Module:
    raise InputError("The MobileNetV2 backbone (MODEL.BACKBONE.CONV_BODY 'MNV2-FPN-RETINANET') is not built yet.")


def _norm(cfg: "Config") -> type[nn.Module]:
    if not cfg.MODEL.SYNCBN:
        return nn.BatchNorm2d
    # PyTorch's own is fused, for GPUs alone.
    return SyncBatchNorm if cfg.MODEL.DEVICE == "cpu" else nn.SyncBatchNorm


def _checkpointed(cfg: "Config", trained_norm: bool) -> tuple[int, ...]:
    key, stages = "MODEL.BACKBONE.CHECKPOINT_STAGES", cfg.MODEL.BACKBONE.CHECKPOINT_STAGES
    require(all(stage in (1, 2, 3, 4) for stage in stages), key, stages, "stages of 1 to 4, such as (2, 3, 4)")
    # Run a second time, they would take the statistics in twice.
    require(not (stages and trained_norm), key, stages, "() where BatchNorms are trained (SYNCBN, TRAIN_BN)")
    return tuple(stages)


def _num_levels(cfg: "Config") -> int:
    num_levels = len(cfg.MODEL.FCOS.FPN_STRIDES)
    if num_levels not in (5, 6):
        raise InputError(f"MODEL.FCOS.FPN_STRIDES must name 5 or 6 levels; it names {num_levels}.")
    return num_levels


def _hrnet_width(cfg: "Config") -> int:
    name, width = cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.HRNET.WIDTH
    named = re.search(r"-W(\d+)$", name)
    if named and width not in (0, int(named[1])):
        raise InputError(
            f"MODEL.HRNET.WIDTH is {width}, but MODEL.BACKBONE.CONV_BODY is '{name}'; use 'HRNET' for a width of "
            "your own."
        )
    if not named and width < 1:
        raise InputError("MODEL.BACKBONE.CONV_BODY 'HRNET' needs MODEL.HRNET.WIDTH, such as 18.")
    return int(named[1]) if named else width


def _stages(values: tuple[int, ...], key: str) -> tuple[int, ...]:
    if len(values) != 4 or any(not isinstance(value, int) or value < 1 for value in values):
        raise InputError(f"MODEL.HRNET.{key} must be four positive integers, one a stage; it is {values}.")
    return values


def _branches(values: tuple[int, ...]) -> tuple[int, ...]:
    _stages(values, "NUM_BRANCHES")
    if values[0] != 1 or any(after - before not in (0, 1) for before, after in pairwise(values)):
        raise InputError(f"MODEL.HRNET.NUM_BRANCHES starts at 1 and grows by at most one a stage; it is {values}.")
    return values
