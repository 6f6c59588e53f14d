"""A convolution and the normalization after it, as one convolution where that computes the same."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d

# Weight and bias of convolutions whose normalization `folded_together` has folded.
_FOLDED: ContextVar[Mapping[nn.Conv2d, tuple[Tensor, Tensor]] | None] = ContextVar("folded", default=None)


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """`norm(conv(x))` for x (N, C, H, W).

    While gradients are recorded and the statistics are fixed, the normalization goes into the convolution's weight
    and bias: it then keeps no activation for its backward pass, half of what a network keeps otherwise. Gradients
    reach its own weight and bias through the convolution's.
    """
    if not torch.is_grad_enabled() or not has_fixed_statistics(norm):
        return norm(conv(x))
    folds = None if torch.compiler.is_compiling() else _FOLDED.get()
    weight, bias = folds[conv] if folds and conv in folds else folded(conv, norm)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that computes `norm(conv(x))`, differentiable.

    Args:
        norm: one that `has_fixed_statistics`.
    """
    scale = norm.weight * (norm.running_var + _eps(norm)).rsqrt()
    offset = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale[:, None, None, None], norm.bias - offset * scale


@contextlib.contextmanager
def folded_together(module: nn.Module) -> Iterator[None]:
    """Within it, and while gradients are recorded, `conv_norm` finds the normalizations in `module` folded already.

    One by one each takes some twenty small kernels there and back, which on a GPU is longer than its convolution;
    here all of one filter size take as many together. `torch.compile` sees to that itself and is left alone.
    """
    token = _FOLDED.set(_fold_all(module))
    try:
        yield
    finally:
        _FOLDED.reset(token)


def has_fixed_statistics(norm: nn.Module) -> bool:
    """Whether `norm` multiplies and shifts each channel by numbers that do not depend on its input."""
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return norm.affine and norm.track_running_stats and not norm.training
    return isinstance(norm, FrozenBatchNorm2d)


def conv_norm_pairs(module: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Module]]:
    """The layers of every `conv_norm` in `module`: the first two of a `ConvNorm`, and convN with the bnN beside it."""
    for parent in module.modules():
        if isinstance(parent, ConvNorm):
            yield parent[0], parent[1]
            continue
        children = dict(parent.named_children())
        for name, child in children.items():
            norm = children.get(name.replace("conv", "bn"))
            if isinstance(child, nn.Conv2d) and norm is not child and norm is not None:
                yield child, norm


class ConvNorm(nn.Sequential):
    """A convolution, its normalization, and whatever layers follow; `nn.Sequential`'s keys."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, *others = self
        x = conv_norm(x, conv, norm)
        for layer in others:
            x = layer(x)
        return x


def _fold_all(module: nn.Module) -> dict[nn.Conv2d, tuple[Tensor, Tensor]]:
    alike = defaultdict(list)
    for conv, norm in conv_norm_pairs(module):
        if has_fixed_statistics(norm) and conv.bias is None and _is_dense(conv.weight):
            alike[conv.weight[0].numel(), _eps(norm)].append((conv, norm))
    folds = {}
    for (_, eps), pairs in alike.items():
        convs, norms = zip(*pairs, strict=True)
        folds.update(zip(convs, _fold(convs, norms, eps), strict=True))
    return folds


def _fold(convs: Sequence[nn.Conv2d], norms: Sequence[nn.Module], eps: float) -> Iterator[tuple[Tensor, Tensor]]:
    """What `folded` gives for each pair, in the dtype that the convolutions compute in."""
    weight, bias, mean, var = (
        torch.cat([getattr(norm, name) for norm in norms]) for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight * (var + eps).rsqrt()
    device, dtype = scale.device.type, scale.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    weights = _ScaleChannels.apply(dtype, scale, *[conv.weight for conv in convs])
    biases = (bias - mean * scale).to(dtype).split([conv.out_channels for conv in convs])
    return zip(weights, biases, strict=True)


class _ScaleChannels(Function):
    """Dense weights (O_i, I_i, H_i, W_i) of one I * H * W, each output channel times its element of `scale`."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, scale: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        # Of the weights the parameters themselves are kept, not their rows.
        ctx.save_for_backward(scale, *weights)
        return _from_rows(_rows(weights, weights).mul_(scale[:, None]).to(dtype), weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale, *weights = ctx.saved_tensors
        rows = _rows(grads, weights)
        grad_scale = (rows * _rows(weights, weights)).sum(1) if ctx.needs_input_grad[1] else None
        return None, grad_scale, *_from_rows(rows * scale[:, None], weights)


def _rows(tensors: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Tensors of the weights' shapes as one matrix, a row an output channel, its elements as the weight has them."""
    pairs = zip(tensors, weights, strict=True)
    return torch.cat([(t if w.is_contiguous() else t.permute(0, 2, 3, 1)).flatten(1) for t, w in pairs])


def _from_rows(rows: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What `_rows` has put together, each laid out in memory as its weight is."""
    parts = zip(rows.split([len(weight) for weight in weights]), weights, strict=True)
    return tuple(part.as_strided(w.shape, w.stride(), part.storage_offset()) for part, w in parts)


def _is_dense(weight: Tensor) -> bool:
    return weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)


def _eps(norm: nn.Module) -> float:
    return 0.0 if isinstance(norm, FrozenBatchNorm2d) else norm.eps
