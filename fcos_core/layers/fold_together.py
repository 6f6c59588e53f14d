"""Many fixed normalizations folded into their convolutions at once."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from fcos_core.layers.conv_norm import FOLDS, conv_norm_pairs, epsilon, has_fixed_statistics


@contextlib.contextmanager
def folded_together(module: nn.Module) -> Iterator[None]:
    """Within it, and while gradients are recorded, `conv_norm` finds the normalizations in `module` folded already.

    One by one each takes some twenty small kernels there and back, which on a GPU is longer than its convolution;
    here all of one filter size take as many together. `torch.compile` sees to that itself and is left alone.
    """
    token = FOLDS.set(_fold_all(module))
    try:
        yield
    finally:
        FOLDS.reset(token)


def _fold_all(module: nn.Module) -> dict[nn.Conv2d, tuple[Tensor, Tensor]]:
    alike = defaultdict(list)
    for conv, norm in conv_norm_pairs(module):
        if has_fixed_statistics(norm) and conv.bias is None and _is_dense(conv.weight):
            alike[conv.weight[0].numel(), epsilon(norm)].append((conv, norm))
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
    if not scale.is_meta and torch.is_autocast_enabled(device):
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
