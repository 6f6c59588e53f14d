"""Folding of many normalizations into their convolutions at once."""

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
    """Fold all fixed normalizations in `module` on entry, for `conv_norm` to use inside the context in training.

    Folding one norm takes some twenty small kernels in forward and backward pass, on a GPU longer than its convolution.
    Here all norms of one filter size share them. Compiled code uses no folds: torch.compile fuses the kernels itself.
    """
    token = FOLDS.set(_fold_all(module))
    try:
        yield
    finally:
        FOLDS.reset(token)


def _fold_all(module: nn.Module) -> dict[nn.Conv2d, tuple[Tensor, Tensor]]:
    groups = defaultdict(list)
    for conv, norm in conv_norm_pairs(module):
        if has_fixed_statistics(norm) and conv.bias is None and _is_dense(conv.weight):
            groups[conv.weight[0].numel(), epsilon(norm)].append((conv, norm))
    folds = {}
    for (_, eps), pairs in groups.items():
        convs, norms = zip(*pairs, strict=True)
        folds.update(zip(convs, _fold(convs, norms, eps), strict=True))
    return folds


def _fold(convs: Sequence[nn.Conv2d], norms: Sequence[nn.Module], eps: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Return `folded` weight and bias of each pair, in the dtype that the convolutions compute in."""
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
    """Multiplies each output channel of dense weights (O_i, I_i, H_i, W_i), of one I_i * H_i * W_i, by its `scale`."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, scale: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        # Save the parameters, which exist anyway, and not the copies that `_rows` makes.
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
    """Copy tensors of the weights' shapes into one matrix, one row per output channel, in the weights' memory order."""
    pairs = zip(tensors, weights, strict=True)
    return torch.cat([(t if w.is_contiguous() else t.permute(0, 2, 3, 1)).flatten(1) for t, w in pairs])


def _from_rows(rows: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Split the matrix of `_rows` into tensors with the shapes and memory layouts of the weights."""
    parts = zip(rows.split([len(weight) for weight in weights]), weights, strict=True)
    return tuple(part.as_strided(w.shape, w.stride(), part.storage_offset()) for part, w in parts)


def _is_dense(weight: Tensor) -> bool:
    return weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
