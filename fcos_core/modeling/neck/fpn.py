"""Feature pyramid on a ResNet (Lin et al. 2017), with P6 and P7 from P5 (FCOS, sec. 3.2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers.own_dtype import upsample


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution, padded to keep the size at stride 1, with kaiming uniform (a=1) weights and zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return layer


class TopBlocks(nn.Module):
    """Two stride-2 convolutions: one from P5 to P6, one from P6 after a ReLU to P7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = conv(channels, channels, 3, stride=2)
        self.p7 = conv(channels, channels, 3, stride=2)

    def forward(self, p5: Tensor) -> list[Tensor]:
        p6 = self.p6(p5)
        return [p6, self.p7(F.relu(p6))]


class FPN(nn.Module):
    """Top-down pathway with lateral connections, from C2 .. C5 of `in_channels` to levels of `out_channels` channels.

    The 5 levels are P3 .. P7 (C2 is not used and may be missing), the 6 levels P2 .. P7; another `num_levels` raises
    ValueError.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_levels: int) -> None:
        super().__init__()
        if num_levels not in (5, 6):
            raise ValueError(f"FPN makes 5 or 6 levels, not {num_levels}")
        self.out_channels = out_channels
        self.strides = tuple(2 ** (8 - num_levels + level) for level in range(num_levels))
        # Checkpoints name the modules fpn_innerN and fpn_layerN with N = 1 for C2 ... 4 for C5, the last map.
        self.numbers = range(7 - num_levels, 5)
        for number in self.numbers:
            self.add_module(f"fpn_inner{number}", conv(in_channels[number - 5], out_channels, 1))
            self.add_module(f"fpn_layer{number}", conv(out_channels, out_channels, 3))
        self.top_blocks = TopBlocks(out_channels)

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return (height, width) of each level for padded images of `height` x `width` pixels."""
        # The body and the top blocks halve with padding, which rounds up.
        return [(-(-height // stride), -(-width // stride)) for stride in self.strides]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return levels (N, out_channels, H / stride, W / stride), finest first; see `level_sizes`.

        `features` are [C2 .. C5], (N, in_channels[i], H / 2^(i + 2), W / 2^(i + 2)) each.
        """
        levels: list[Tensor] = []
        top_down = None
        for number in reversed(self.numbers):
            lateral = getattr(self, f"fpn_inner{number}")(features[number - 5])
            top_down = lateral if top_down is None else lateral + upsample(top_down, 2, "nearest")
            levels.insert(0, getattr(self, f"fpn_layer{number}")(top_down))
        return levels + self.top_blocks(levels[-1])
