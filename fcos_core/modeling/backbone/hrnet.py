"""High-resolution network (HRNetV2; Sun et al. 2019, arXiv:1904.04514, sec. 3)."""

import re
from collections.abc import Sequence
from functools import partial, reduce
from operator import add

import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.errors import InputError
from fcos_core.layers.conv_norm import ConvNorm, conv_norm
from fcos_core.layers.own_dtype import Upsample
from fcos_core.modeling.backbone.build import batch_norm, body_with_neck, check_batch_norm_size, num_levels
from fcos_core.modeling.backbone.stage import Stage
from fcos_core.modeling.neck.hrfpn import HRFPN
from fcos_core.modeling.registry import BACKBONES
from fcos_core.utils.streams import parallel


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, norm: type[nn.Module], relu: bool
) -> ConvNorm:
    """Make a convolution, padded to keep the size at stride 1, with BatchNorm and, if `relu`, ReLU after it."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return ConvNorm(conv, norm(out_channels), *([nn.ReLU(inplace=True)] if relu else []))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut, from `channels` to `channels`."""

    def __init__(self, channels: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.bn1, relu=True)
        return conv_norm(out, self.conv2, self.bn2, shortcut=x, relu=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut, from `in_channels` to 4 * `width` channels."""

    def __init__(self, in_channels: int, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = conv_bn(in_channels, out_channels, 1, 1, norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = conv_norm(x, self.conv1, self.bn1, relu=True)
        x = conv_norm(x, self.conv2, self.bn2, relu=True)
        return conv_norm(x, self.conv3, self.bn3, shortcut=shortcut, relu=True)


class HighResolutionModule(nn.Module):
    """Parallel branches of `num_blocks` residual blocks, and a fusion that sums all branches into each branch.

    `channels` has an entry per branch, finest first; each branch has half the height and width of the one before it.
    """

    def __init__(self, channels: Sequence[int], num_blocks: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*[BasicBlock(width, norm) for _ in range(num_blocks)]) for width in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._fuse_layer(channels, j, i, norm) for j in range(len(channels)))
            for i in range(len(channels) if len(channels) > 1 else 0)
        )

    @staticmethod
    def _fuse_layer(channels: Sequence[int], j: int, i: int, norm: type[nn.Module]) -> nn.Module:
        """Make the layers that bring branch j to the size and channels of branch i."""
        if j == i:
            return nn.Identity()
        if j > i:
            project = conv_bn(channels[j], channels[i], 1, 1, norm, relu=False)
            return ConvNorm(*project, Upsample(scale_factor=2 ** (j - i), mode="nearest"))
        halvings = [conv_bn(channels[j], channels[j], 3, 2, norm, relu=True) for _ in range(i - j - 1)]
        return nn.Sequential(*halvings, conv_bn(channels[j], channels[i], 3, 2, norm, relu=False))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        features = parallel([partial(branch, x) for branch, x in zip(self.branches, features, strict=True)])
        if not self.fuse_layers:
            return features
        return parallel([partial(self._fuse, layers, features) for layers in self.fuse_layers])

    @staticmethod
    def _fuse(layers: nn.ModuleList, features: Sequence[Tensor]) -> Tensor:
        return F.relu_(reduce(add, (layer(x) for layer, x in zip(layers, features, strict=True))))


class HighResolutionNet(nn.Module):
    """HRNetV2 body: one high-resolution branch through all stages; later stages add coarser branches.

    Args:
        width: channels of the finest branch; branch i has width * 2^i.
        num_modules, num_branches, num_blocks: modules in a row, branches, and blocks in each branch of a module, for
            stages 1 to 4. A stage has at most one branch more than the stage before it.
        stem_channels, stage1_channels: channels of the two stem convolutions, width of the bottlenecks of stage 1.
        train_norm: use and update batch statistics in training; if False, only scale and bias are trained.
        norm: BatchNorm class.
        checkpointed: stages (1 to 4) that run their blocks or modules again in the backward pass, to save memory.
    """

    def __init__(
        self,
        width: int,
        num_modules: Sequence[int] = (1, 1, 4, 3),
        num_branches: Sequence[int] = (1, 2, 3, 4),
        num_blocks: Sequence[int] = (4, 4, 4, 4),
        stem_channels: int = 64,
        stage1_channels: int = 64,
        train_norm: bool = False,
        norm: type[nn.Module] = nn.BatchNorm2d,
        checkpointed: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.norm, self.train_norm = norm, train_norm
        self.conv1 = nn.Conv2d(3, stem_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = norm(stem_channels)
        self.conv2 = nn.Conv2d(stem_channels, stem_channels, 3, stride=2, padding=1, bias=False)
        self.bn2 = norm(stem_channels)
        block_inputs = [stem_channels] + [4 * stage1_channels] * (num_modules[0] * num_blocks[0] - 1)
        blocks = [Bottleneck(channels, stage1_channels, norm) for channels in block_inputs]
        self.layer1 = Stage(*blocks, checkpointed=1 in checkpointed)
        channels = [4 * stage1_channels]
        for stage in (1, 2, 3):
            before, channels = channels, [width * 2**i for i in range(num_branches[stage])]
            self.add_module(f"transition{stage}", self._transition(before, channels))
            modules = [HighResolutionModule(channels, num_blocks[stage], norm) for _ in range(num_modules[stage])]
            self.add_module(f"stage{stage + 1}", Stage(*modules, checkpointed=stage + 1 in checkpointed))
        self.out_channels = tuple(channels)
        self.strides = tuple(4 * 2**i for i in range(len(channels)))
        self.train()  # a module starts in training mode, its norms only if `train_norm`

    def _transition(self, before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
        """Make the layers between two stages; a new branch starts from the coarsest branch of the stage before."""
        layers = nn.ModuleList()
        for i, channels in enumerate(after):
            if i == len(before):
                layers.append(nn.Sequential(conv_bn(before[-1], channels, 3, 2, self.norm, relu=True)))
            elif before[i] != channels:
                layers.append(conv_bn(before[i], channels, 3, 1, self.norm, relu=True))
            else:
                layers.append(nn.Identity())
        return layers

    def train(self, mode: bool = True) -> "HighResolutionNet":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, self.norm) and not self.train_norm:
                module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the branches of images (N, 3, H, W), each (N, width * 2^i, H / (4 * 2^i), W / (4 * 2^i)).

        Raise InputError if a trained norm would see one value per channel.
        """
        if self.training and self.train_norm:
            check_batch_norm_size(x, self.strides[-1], self.norm)
        x = conv_norm(x, self.conv1, self.bn1, relu=True)
        x = conv_norm(x, self.conv2, self.bn2, relu=True)
        features = [self.layer1(x)]
        for stage in (1, 2, 3):
            transition = getattr(self, f"transition{stage}")
            sources = features + [features[-1]] * (len(transition) - len(features))
            branches = [layer(source) for layer, source in zip(transition, sources, strict=True)]
            features = getattr(self, f"stage{stage + 1}")(branches)
        return features


@BACKBONES.register("HRNET", "HRNET-W18", "HRNET-W18-SMALL-V2", "HRNET-W32", "HRNET-W40", "HRNET-W48")
def build_hrnet_hrfpn(cfg: Config) -> nn.Module:
    """Build an HRNet with an HRFPN; raise InputError if the width or the number of levels cannot be used."""
    hrnet = cfg.MODEL.HRNET
    is_small = cfg.MODEL.BACKBONE.CONV_BODY == "HRNET-W18-SMALL-V2"
    body = HighResolutionNet(
        width=_width(cfg),
        num_modules=(1, 1, 3, 2) if is_small else hrnet.NUM_MODULES,
        num_branches=hrnet.NUM_BRANCHES,
        num_blocks=(2, 2, 2, 2) if is_small else hrnet.NUM_BLOCKS,
        stem_channels=hrnet.STEM_CHANNELS,
        stage1_channels=hrnet.STAGE1_CHANNELS,
        train_norm=hrnet.TRAIN_BN or cfg.MODEL.SYNCBN or cfg.MODEL.USE_SYNCBN,
        norm=batch_norm(cfg),
        checkpointed=cfg.MODEL.BACKBONE.CHECKPOINT_STAGES,
    )
    neck = HRFPN(body.out_channels, hrnet.FPN.OUT_CHANNEL, num_levels(cfg), hrnet.FPN.CONV_STRIDE)
    return body_with_neck(body, neck)


def _width(cfg: Config) -> int:
    name, width = cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.HRNET.WIDTH
    in_name = re.match(r"HRNET-W(\d+)", name)
    if in_name and width not in (0, int(in_name[1])):
        raise InputError(
            f"MODEL.HRNET.WIDTH is {width}, but MODEL.BACKBONE.CONV_BODY is '{name}'. Leave WIDTH out, or write "
            "CONV_BODY 'HRNET' to choose the width."
        )
    if not in_name and width < 1:
        raise InputError("MODEL.BACKBONE.CONV_BODY 'HRNET' needs MODEL.HRNET.WIDTH, such as 18.")
    return int(in_name[1]) if in_name else width
