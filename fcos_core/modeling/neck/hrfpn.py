"""Feature pyramid on a high-resolution network (HRNetV2p; Sun et al. 2019, arXiv:1904.04514, sec. 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers.own_dtype import upsample


class HRFPN(nn.Module):
    """Concatenates all branches at the finest resolution and pools the levels from there.

    Args:
        in_channels: channels of each branch, finest first.
        out_channels: channels of every level.
        num_levels: number of levels.
        conv_stride: stride of each level's 3x3 convolution; 2 makes the finest stride 8, 1 makes it 4.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_levels: int, conv_stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = tuple(in_channels), out_channels
        self.strides = tuple(4 * conv_stride * 2**level for level in range(num_levels))
        self.reduction_conv = nn.Sequential(nn.Conv2d(sum(in_channels), out_channels, 1))
        self.fpn_conv = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, conv_stride, 1) for _ in range(num_levels)
        )

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Branches (N, C_i, H / (4 * 2^i), W / (4 * 2^i)) to levels (N, out_channels, H / stride, W / stride)."""
        size = branches[0].shape[-2:]
        upsampled = [upsample(branch, 2**i, "bilinear") for i, branch in enumerate(branches[1:], start=1)]
        fused = self.reduction_conv(torch.cat([branches[0], *upsampled], dim=1))
        levels = []
        for level, conv in enumerate(self.fpn_conv):
            # A map smaller than the kernel is pooled whole: a thin image still has one row on every level.
            kernel = [min(2**level, side) for side in size]
            levels.append(conv(F.avg_pool2d(fused, kernel) if level else fused))
        return levels
