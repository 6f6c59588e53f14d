"""Feature pyramid on a high-resolution network (HRNetV2p; Sun et al. 2019, arXiv:1904.04514, sec. 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers.own_dtype import upsample


class HRFPN(nn.Module):
    """Concatenates all branches at the finest resolution, stride 4, and pools every level from the result.

    `in_channels` has an entry per branch, finest first. `conv_stride` is the stride of each level's 3x3 convolution:
    2 gives a finest level of stride 8, 1 of stride 4.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_levels: int, conv_stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.conv_stride = tuple(in_channels), out_channels, conv_stride
        self.strides = tuple(4 * conv_stride * 2**level for level in range(num_levels))
        self.reduction_conv = nn.Sequential(nn.Conv2d(sum(in_channels), out_channels, 1))
        self.fpn_conv = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, conv_stride, 1) for _ in range(num_levels)
        )

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return (height, width) of each level for padded images of `height` x `width` pixels."""
        # The stem halves twice and rounds up, the pooling rounds down, the convolution rounds up.
        finest = [-(-side // 4) for side in (height, width)]
        sizes = []
        for level in range(len(self.strides)):
            sides = zip(finest, _pooling_kernel(level, finest), strict=True)
            sizes.append(tuple(-(-(side // kernel) // self.conv_stride) for side, kernel in sides))
        return sizes

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Return levels (N, out_channels, H / stride, W / stride), finest first; see `level_sizes`.

        `branches` are (N, in_channels[i], H / (4 * 2^i), W / (4 * 2^i)) each.
        """
        upsampled = [upsample(branch, 2**i, "bilinear") for i, branch in enumerate(branches[1:], start=1)]
        fused = self.reduction_conv(torch.cat([branches[0], *upsampled], dim=1))
        levels = []
        for level, conv in enumerate(self.fpn_conv):
            kernel = _pooling_kernel(level, fused.shape[-2:])
            levels.append(conv(F.avg_pool2d(_pooled_part(fused, kernel), kernel) if level else fused))
        return levels


def _pooled_part(x: Tensor, kernel: Sequence[int]) -> Tensor:
    """Return the part of x that the pooling reads; without it torch.export would fix whether all of x is read."""
    if not torch.compiler.is_exporting():
        return x
    height, width = (side // step * step for side, step in zip(x.shape[-2:], kernel, strict=True))
    return x[..., :height, :width]


def _pooling_kernel(level: int, size: Sequence[int]) -> list[int]:
    """Return kernel and stride (height, width) of the pooling from a map of `size` to `level`.

    A side shorter than the kernel is pooled whole: a thin image still has one row on every level.
    """
    return [min(2**level, side) for side in size]
