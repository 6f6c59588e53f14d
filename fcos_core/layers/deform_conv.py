"""Deformable convolution, version 1 (Dai et al. 2017, sec. 2.1) and version 2 (Zhu et al. 2019, sec. 3.2)."""

import torch
from torch import Tensor, nn

from fcos_core.layers.own_dtype import without_autocast


class DFConv2d(nn.Module):
    """Convolution that samples its input at positions which another convolution predicts.

    Args:
        in_channels, out_channels: channels of input and output.
        with_modulated_dcn: predict a factor from 0 to 1 beside each offset (version 2).
        kernel_size: odd height and width of the filter.
        stride, dilation, padding: of both convolutions; padding None keeps the size of the input at stride 1.
        groups: groups of channels of the filter.
        deformable_groups: groups of input channels, each with its own offsets.
        bias: add a bias to the result.

    Attributes:
        offset: predicts, for each deformable group, the (y, x) offsets of all filter positions, then, in version 2, the
            logits of the factors of all groups.
        conv: holds weight and bias of the filter; it is not called.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        with_modulated_dcn: bool = True,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        geometry = (kernel_size, stride, dilation * (kernel_size // 2) if padding is None else padding, dilation)
        self.num_offsets = 2 * deformable_groups * kernel_size**2
        predicted = self.num_offsets * 3 // 2 if with_modulated_dcn else self.num_offsets
        self.offset = nn.Conv2d(in_channels, predicted, *geometry)
        nn.init.kaiming_uniform_(self.offset.weight, a=1)
        nn.init.zeros_(self.offset.bias)
        self.conv = nn.Conv2d(in_channels, out_channels, *geometry, groups, bias)
        bound = (in_channels * kernel_size**2) ** -0.5  # as published; groups do not count
        nn.init.uniform_(self.conv.weight, -bound, bound)
        if bias:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, in_channels, H, W), half types in float32; the result is of a plain convolution's dtype."""
        from torchvision.ops import deform_conv2d  # a second of import, which only these layers need

        predicted, conv = self.offset(x), self.conv
        with without_autocast(x):
            dtype = torch.promote_types(x.dtype, torch.float32)
            offset, mask = predicted[:, : self.num_offsets].to(dtype), predicted[:, self.num_offsets :].to(dtype)
            out = deform_conv2d(
                x.to(dtype),
                offset,
                conv.weight.to(dtype),
                None if conv.bias is None else conv.bias.to(dtype),
                conv.stride,
                conv.padding,
                conv.dilation,
                mask.sigmoid() if mask.shape[1] else None,
            )
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return out.to(predicted.dtype, memory_format=layout)
