"""Batch normalization with statistics of the batches of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from fcos_core.utils import comm


class SyncBatchNorm(nn.BatchNorm2d):
    """Synchronized BatchNorm for any device; PyTorch's `nn.SyncBatchNorm` does not run on CPUs.

    Processes may have different numbers of values per channel, even none. Gradients of weight and bias come from the
    process's own values, and DistributedDataParallel averages them. A single process computes plain BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, H, W) to an output of the same shape and dtype; statistics are float32 or float64.

        Raise ValueError if all processes together have less than two values per channel in training.
        """
        if not self.training or comm.get_world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        mean, var, count = _batch_statistics(x)
        if self.track_running_stats:
            self._track(mean, var * count / (count - 1))
        dtype = torch.promote_types(x.dtype, torch.float32)
        invstd = (var + self.eps).rsqrt().to(dtype)
        return _Normalize.apply(x, self.weight, self.bias, mean.to(dtype), invstd, count)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        factor = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(unbiased_var.to(self.running_var.dtype), factor)


class _Normalize(Function):
    """Batch normalization with statistics of all processes, whose gradient covers the values of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, count: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, invstd)
        ctx.count = count
        out = _standardize(x, mean, invstd)
        if weight is not None:
            out = out * weight[:, None, None] + bias[:, None, None]
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd = ctx.saved_tensors
        standardized = _standardize(x, mean, invstd)
        grad = grad.to(mean.dtype)
        sums = torch.stack([grad.sum((0, 2, 3)), (grad * standardized).sum((0, 2, 3))])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            through_mean, through_std = (comm.all_reduce_sum(sums) / ctx.count)[..., None, None]
            scale = invstd if weight is None else invstd * weight
            grad_x = ((grad - through_mean - standardized * through_std) * scale[:, None, None]).to(x.dtype)
        if weight is not None:
            grad_bias, grad_weight = sums.to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None, None


@torch.no_grad()
def _batch_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return mean and biased variance of each channel over all processes, (C,) float64, and the number of values.

    Every process combines the same numbers in the same order, so all processes get the same bits.
    """
    shape = tuple(x.shape)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    channels = x.shape[1]
    count = x.numel() // channels
    mean = x.sum((0, 2, 3)) / max(count, 1)
    squares = (x - mean[:, None, None]).square().sum((0, 2, 3))
    # float64 even for float32 values: it represents every count exactly and keeps the digits of nearly equal means.
    own = torch.cat([mean.double(), squares.double(), mean.new_tensor([count], dtype=torch.float64)])
    gathered = [torch.empty_like(own) for _ in range(comm.get_world_size())]
    dist.all_gather(gathered, own)
    means, squares, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    total = int(counts.sum())
    if total < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got {total}; own input {shape}")
    mean = (counts * means).sum(0) / total
    # Chan, Golub and LeVeque 1983: add the squared deviation of each process's mean from the common mean.
    squares = squares + counts * (means - mean).square()
    return mean, squares.sum(0) / total, total


def _standardize(x: Tensor, mean: Tensor, invstd: Tensor) -> Tensor:
    return (x.to(mean.dtype) - mean[:, None, None]) * invstd[:, None, None]
