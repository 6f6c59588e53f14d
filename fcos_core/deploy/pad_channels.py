"""Channels of zeros, where a GPU's kernels want whole multiples."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_core.layers.inference_conv import InferenceConv2d
from fcos_core.modeling.neck.hrfpn import HRFPN


def pad_channels(backbone: nn.Module, multiple: int) -> int:
    """Add channels of zeros, in place, until every map has a multiple of `multiple`, as the images are then to have.

    A backbone with grouped convolutions of other channels stays as it is.

    Args:
        backbone: body and neck whose convolutions have been converted, and their norms folded. Its levels keep their
            channels where those are such a multiple.

    Returns:
        Channels of the images that it takes from now on.
    """
    convs = [module for module in backbone.modules() if isinstance(module, InferenceConv2d)]
    if any(conv.groups > 1 and (conv.in_channels % multiple or conv.out_channels % multiple) for conv in convs):
        return convs[0].in_channels
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
    """x with zeros at the end of `dim`."""
    return F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, -x.shape[dim] % multiple))
