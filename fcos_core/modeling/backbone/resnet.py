"""ResNet and ResNeXt with Caffe2's layout (He et al. 2016, table 1; Xie et al. 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.layers.conv_norm import ConvNorm, conv_norm
from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d
from fcos_core.modeling.backbone.build import body_with_neck, num_levels
from fcos_core.modeling.backbone.stage import Stage
from fcos_core.modeling.neck.fpn import FPN
from fcos_core.modeling.registry import BACKBONES

BLOCKS_PER_STAGE = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Make a convolution without bias, padded to keep the size, with kaiming uniform (a=1) weights."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    return layer


class Stem(nn.Module):
    """7x7 convolution and max pooling: images (N, 3, H, W) to (N, 64, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 7, stride=2)
        self.bn1 = FrozenBatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        x = conv_norm(x, self.conv1, self.bn1, relu=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut.

    The 3x3 convolution has `width` channels in `groups` groups. It also has the stride, unless `stride_in_1x1` gives
    the stride to the first 1x1 convolution. With `deformable` it is a deformable one with these options.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        stride: int,
        stride_in_1x1: bool,
        groups: int,
        deformable: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = ConvNorm(conv(in_channels, out_channels, 1, stride), FrozenBatchNorm2d(out_channels))
        self.conv1 = conv(in_channels, width, 1, stride_1x1)
        self.bn1 = FrozenBatchNorm2d(width)
        if deformable is None:
            self.conv2: nn.Module = conv(width, width, 3, stride_3x3, groups)
        else:
            self.conv2 = DFConv2d(width, width, stride=stride_3x3, groups=groups, **deformable)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = FrozenBatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = conv_norm(x, self.conv1, self.bn1, relu=True)
        x = conv_norm(x, self.conv2, self.bn2, relu=True)
        return conv_norm(x, self.conv3, self.bn3, shortcut=shortcut, relu=True)


class ResNet(nn.Module):
    """ResNet-50 or -101 with frozen BatchNorm.

    Args:
        depth: 50 or 101.
        num_groups, width_per_group: of the 3x3 convolutions of stage 1; each later stage doubles the width.
        stride_in_1x1: see `Bottleneck`.
        freeze_at: number of parts, from the input on, that are not trained: 1 the stem, 2 the stem and stage 1, ...
        checkpointed: stages (1 to 4) that run their blocks again in the backward pass, to save memory.
        deformable_stages: stages (1 to 4) whose 3x3 convolutions are deformable.
        deformable_groups, modulated: of these convolutions.
    """

    out_channels = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)

    def __init__(
        self,
        depth: int,
        num_groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = True,
        freeze_at: int = 2,
        checkpointed: Sequence[int] = (),
        deformable_stages: Sequence[int] = (),
        deformable_groups: int = 1,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        self.stem = Stem()
        in_channels = 64
        options = {"deformable_groups": deformable_groups, "with_modulated_dcn": modulated}
        for i, (blocks, out_channels) in enumerate(zip(BLOCKS_PER_STAGE[depth], self.out_channels, strict=True)):
            layers = []
            width = num_groups * width_per_group * 2**i
            deformable = options if i + 1 in deformable_stages else None
            for block in range(blocks):
                stride = 2 if i > 0 and block == 0 else 1
                shape = (in_channels, width, out_channels, stride, stride_in_1x1, num_groups)
                layers.append(Bottleneck(*shape, deformable))
                in_channels = out_channels
            self.add_module(f"layer{i + 1}", Stage(*layers, checkpointed=i + 1 in checkpointed))
        for part in list(self.children())[: max(freeze_at, 0)]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [C2, C3, C4, C5] of images (N, 3, H, W); C_i has shape (N, 64 * 2^i, H / 2^i, W / 2^i)."""
        x = self.stem(x)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


@BACKBONES.register("R-50-FPN-RETINANET", "R-101-FPN-RETINANET")
def build_resnet_fpn(cfg: Config) -> nn.Module:
    """Build a ResNet or ResNeXt with an FPN; raise InputError if the number of levels cannot be used."""
    resnets = cfg.MODEL.RESNETS
    body = ResNet(
        depth=int(cfg.MODEL.BACKBONE.CONV_BODY.split("-")[1]),
        num_groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT,
        checkpointed=cfg.MODEL.BACKBONE.CHECKPOINT_STAGES,
        deformable_stages=[stage for stage, deforms in enumerate(resnets.STAGE_WITH_DCN, start=1) if deforms],
        deformable_groups=resnets.DEFORMABLE_GROUPS,
        modulated=resnets.WITH_MODULATED_DCN,
    )
    return body_with_neck(body, FPN(body.out_channels, resnets.BACKBONE_OUT_CHANNELS, num_levels(cfg)))
