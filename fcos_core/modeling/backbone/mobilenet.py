"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381, table 2, width 1.0)."""

from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.modeling.backbone.build import batch_norm, body_with_neck, check_batch_norm_size, num_levels
from fcos_core.modeling.neck.fpn import FPN
from fcos_core.modeling.registry import BACKBONES

# Expansion, output channels, blocks and stride of the first block, in the order of the paper's table.
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: type[nn.Module],
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> list[nn.Module]:
    """Make a convolution, padded to keep the size at stride 1, with BatchNorm and, if `relu`, ReLU6 after it."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    nn.init.normal_(conv.weight, std=(2 / (kernel_size**2 * out_channels)) ** 0.5)
    return [conv, norm(out_channels), *([nn.ReLU6(inplace=True)] if relu else [])]


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels, depthwise 3x3 and linear 1x1, with a shortcut where it fits.

    Without expansion there is no first 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, norm: type[nn.Module]) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *(conv_bn(in_channels, hidden, 1, norm) if expansion > 1 else []),
            *conv_bn(hidden, hidden, 3, norm, stride, groups=hidden),
            *conv_bn(hidden, out_channels, 1, norm, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 without its last convolution and classifier; BatchNorms use and update batch statistics in training.

    Args:
        freeze_at: number of features, from the input on, whose weights are not trained.
        norm: BatchNorm class.
    """

    # The last feature of each resolution.
    out_features = (3, 6, 13, 17)
    out_channels = (24, 32, 96, 320)
    strides = (4, 8, 16, 32)

    def __init__(self, freeze_at: int = 0, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        channels = 32
        self.features = nn.ModuleList([nn.Sequential(*conv_bn(3, channels, 3, norm, stride=2))])
        for expansion, out_channels, blocks, first_stride in _BLOCKS:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                self.features.append(InvertedResidual(channels, out_channels, stride, expansion, norm))
                channels = out_channels
        for feature in self.features[: max(freeze_at, 0)]:
            feature.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [C2, C3, C4, C5] of images (N, 3, H, W); C_i has shape (N, out_channels[i - 2], H / 2^i, W / 2^i).

        Raise InputError if a norm would see one value per channel in training.
        """
        if self.training:
            check_batch_norm_size(x, self.strides[-1], self.norm)
        outputs = []
        for number, feature in enumerate(self.features):
            x = feature(x)
            if number in self.out_features:
                outputs.append(x)
        return outputs


@BACKBONES.register("MNV2-FPN-RETINANET")
def build_mobilenet_fpn(cfg: Config) -> nn.Module:
    """Build a MobileNetV2 with an FPN; raise InputError if the number of levels cannot be used."""
    body = MobileNetV2(cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT, batch_norm(cfg))
    return body_with_neck(body, FPN(body.out_channels, cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS, num_levels(cfg)))
