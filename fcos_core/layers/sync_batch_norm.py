"""Batch normalization on the statistics of all processes' batches together."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from fcos_core.utils import comm


class SyncBatchNorm(nn.BatchNorm2d):
    """What `nn.SyncBatchNorm` computes, on any device; that one, and DistributedDataParallel with it, refuse CPUs.

    Processes may have different numbers of values a channel, even none. Gradients of weight and bias are those of
    the process's own values, for DistributedDataParallel to average. One process alone has plain BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, H, W); the output has its shape and dtype, statistics have float32 or more.

        Raises:
            ValueError: in training, all processes together have less than two values a channel.
        """
        if not self.training or comm.get_world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        mean, var, count = _batch_statistics(x)
        if self.track_running_stats:
            self._track(mean, var * count / (count - 1))
        dtype = _at_least_float32(x)
        invstd = (var + self.eps).rsqrt().to(dtype)
        return _Normalize.apply(x, self.weight, self.bias, mean.to(dtype), invstd, count)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        factor = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(unbiased_var.to(self.running_var.dtype), factor)


class _Normalize(Function):
    """Batch normalization with given statistics, through which its gradient goes to every process's values."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        invstd: Tensor,
        count: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, invstd)
        ctx.count = count
        out = _standardized(x, mean, invstd)
        if weight is not None:
            out = out * _beside(weight, x) + _beside(bias, x)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd = ctx.saved_tensors
        standardized = _standardized(x, mean, invstd)
        grad = grad.to(mean.dtype)
        own = torch.stack([_channel_sums(grad), _channel_sums(grad * standardized)])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            through_mean, through_std = comm.all_reduce_sum(own) / ctx.count
            grad_x = grad - _beside(through_mean, x) - standardized * _beside(through_std, x)
            grad_x = (grad_x * _beside(invstd if weight is None else invstd * weight, x)).to(x.dtype)
        if weight is not None:
            grad_bias, grad_weight = own.to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None, None


@torch.no_grad()
def _batch_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance of each channel over all processes, (C,) float64, and the number of its values.

    Every process combines the same numbers in the same order: all get the same bits.
    """
    shape = tuple(x.shape)
    x = x.to(_at_least_float32(x))
    channels = x.shape[1]
    count = x.numel() // channels
    mean = _channel_sums(x) / max(count, 1)
    squares = _channel_sums((x - _beside(mean, x)).square())
    # float64 also for float32 values: it holds every count, and the deviations of the means.
    own = torch.cat([mean.double(), squares.double(), mean.new_tensor([count], dtype=torch.float64)])
    gathered = [torch.empty_like(own) for _ in range(comm.get_world_size())]
    dist.all_gather(gathered, own)
    means, squares, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    total = int(counts.sum())
    if total < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got {total}; own input {shape}")
    mean = (counts * means).sum(0) / total
    # Chan, Golub and LeVeque 1983: deviations from the own mean, then that mean's from the whole one.
    squares = squares + counts * (means - mean).square()
    return mean, squares.sum(0) / total, total


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _standardized(x: Tensor, mean: Tensor, invstd: Tensor) -> Tensor:
    return (x.to(mean.dtype) - _beside(mean, x)) * _beside(invstd, x)


def _beside(vector: Tensor, x: Tensor) -> Tensor:
    """(C,) as (C, 1, ...), to broadcast with x (N, C, ...)."""
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def _channel_sums(x: Tensor) -> Tensor:
    """(N, C, ...) to (C,)."""
    return x.sum([0, *range(2, x.ndim)])
