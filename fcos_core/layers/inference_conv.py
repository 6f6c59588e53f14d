"""A convolution for inference, which adds and rectifies while it writes its output."""

import torch
from torch import Tensor, nn

from fcos_core.layers.add_relu import add_relu_


class InferenceConv2d(nn.Conv2d):
    """`conv` with another weight and bias, fixed, and all of a residual block's step in one kernel.

    On a CPU the kernels are oneDNN's, by the operators that PyTorch's own compiler lowers to. On CUDA one kernel does
    what follows cuDNN's convolution: cuDNN's own that do all of it are for some shapes many times slower (PyTorch issue
    68506), or are compiled anew for every shape.

    Args:
        conv: gives stride, padding, dilation and groups.
        weight, bias: such as `fcos_core.layers.conv_norm.folded` gives.
    """

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=False,
            device="meta",
        )
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = False) -> Tensor:
        """The convolution of x (N, C, H, W), plus `shortcut` of the output's shape, rectified if `relu`.

        `shortcut` may be overwritten, and be what is returned.
        """
        if _is_for_onednn(x):
            return self._onednn(x, shortcut, relu)
        # cuDNN's convolutions have no bias: PyTorch would add it in a pass of its own.
        inside, after = (None, self.bias) if x.is_cuda else (self.bias, None)
        return add_relu_(self._conv_forward(x, self.weight, inside), after, shortcut, relu)

    def _onednn(self, x: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
        shape = (self.padding, self.stride, self.dilation, self.groups)
        if shortcut is None:
            then = "relu" if relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *shape, then, [], None)
        # Into the shortcut: out of place the sum is slower than an operator of its own.
        then = "relu" if relu else None
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, x, self.weight, self.bias, *shape, "add", 1.0, then, [], None
        )


def _is_for_onednn(x: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
