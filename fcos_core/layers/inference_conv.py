"""Convolution for inference, fused with the shortcut and the ReLU after it."""

import torch
from torch import Tensor, nn

from fcos_core.layers.add_relu import add_relu_


class InferenceConv2d(nn.Conv2d):
    """Convolution with the geometry of `conv` and a fixed `weight` and `bias` that adds a shortcut and applies ReLU.

    On a CPU one oneDNN kernel does all of it, through the operators that torch.compile uses. On CUDA, `add_relu_` does
    in one kernel everything after cuDNN's convolution. cuDNN's own fused kernels are many times slower for some shapes
    (PyTorch issue 68506), or are compiled again for every shape.
    """

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
        super().__init__(conv.in_channels, conv.out_channels, *geometry, bias=False, device="meta")
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = False) -> Tensor:
        """Convolve x (N, C, H, W), add `shortcut`, whose memory the result may take, and apply ReLU if `relu`."""
        if _fits_onednn(x):
            return self._onednn(x, shortcut, relu)
        # cuDNN's convolutions have no bias, and PyTorch would add it in a separate pass.
        conv_bias, late_bias = (None, self.bias) if x.is_cuda else (self.bias, None)
        return add_relu_(self._conv_forward(x, self.weight, conv_bias), late_bias, shortcut, relu)

    def _onednn(self, x: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if shortcut is None:
            after = "relu" if relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *geometry, after, [], None)
        # The sum goes into the shortcut's memory: into new memory it is slower than a separate addition.
        after = "relu" if relu else None
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, x, self.weight, self.bias, *geometry, "add", 1.0, after, [], None
        )


def _fits_onednn(x: Tensor) -> bool:
    # An exported graph has PyTorch's general operators, which other runtimes know.
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
    if x.device.type != "cpu" or exporting or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
