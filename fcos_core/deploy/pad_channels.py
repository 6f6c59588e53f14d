"""Pad the channels of a backbone with zeros, because GPU kernels are faster with multiples of 4 or 8 channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.layers.inference_conv import InferenceConv2d
from fcos_core.modeling.neck.hrfpn import HRFPN


def pad_channels(backbone: nn.Module, multiple: int) -> int:
    """Add channels of zeros in place until the images and every feature map have a multiple of `multiple` channels.

    `backbone` is a body and neck after `convert_convs`. It stays unchanged if one of its grouped convolutions has
    channels in no such multiple, one is deformable, whose offsets are counted by channels, or one is not converted.
    Return the number of channels that images must have from now on.
    """
    convs = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    unfit = any(isinstance(module, DFConv2d) for module in backbone.modules())
    unfit |= not all(isinstance(conv, InferenceConv2d) for conv in convs)
    if unfit or any(
        conv.groups > 1 and (conv.in_channels % multiple or conv.out_channels % multiple) for conv in convs
    ):
        return 3
    concatenated = {neck.reduction_conv[0]: neck for neck in backbone.modules() if isinstance(neck, HRFPN)}
    for conv in convs:
        weight = conv.weight
        if conv.groups == 1:
            widths = concatenated[conv].in_channels if conv in concatenated else conv.in_channels
            parts = weight.split(widths, dim=1)
            weight = _padded(torch.cat([_padded(part, 1, multiple) for part in parts], dim=1), 0, multiple)
        conv.out_channels, conv.in_channels = weight.shape[0], weight.shape[1] * conv.groups
        conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        if conv.bias is not None:
            conv.bias = nn.Parameter(_padded(conv.bias, 0, multiple), requires_grad=False)
    for neck in concatenated.values():
        neck.in_channels = tuple(width + -width % multiple for width in neck.in_channels)
    return convs[0].in_channels


def _padded(x: Tensor, dim: int, multiple: int) -> Tensor:
    """Append zeros to `dim` of x until its length is a multiple of `multiple`."""
    return F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, -x.shape[dim] % multiple))
