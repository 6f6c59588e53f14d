"""Learning-rate schedules with a warm-up: milestones, and half a cosine."""

import abc
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fcos_core.config import Config
from fcos_core.config.checks import WARMUP_METHODS, check_values


class _WarmupLR(LRScheduler, abc.ABC):
    """Schedule with the learning rate base * warmup(i) * decay(i) in the 1-based iteration i.

    `step()` may be called at the start of every iteration, as HRNet-FCOS does, or at its end, as PyTorch
    advises: iteration i has the same learning rate either way. `last_epoch` is the number of iterations begun.
    Raise ValueError if the method of the warm-up is unknown.

    Args:
        optimizer: the learning rates of its groups are the bases.
        warmup_factor: warmup(i) for i < warmup_iters if the method is "constant"; warmup(0) if it is "linear".
        warmup_iters: first iteration with the full learning rate.
        warmup_method: "constant", or "linear" for a straight line from `warmup_factor` to 1.
        last_epoch: 0-based index of the last iteration done, after which the schedule goes on; -1: none. As in every
            scheduler of PyTorch, the optimizer's groups then need their "initial_lr", or KeyError is raised.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_factor: float, warmup_iters: int, warmup_method: str, last_epoch: int
    ) -> None:
        if warmup_method not in WARMUP_METHODS:
            raise ValueError(f"The warm-up method must be 'constant' or 'linear', not {warmup_method!r}")
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    @abc.abstractmethod
    def _decay(self, iteration: int) -> float:
        """Return the factor on the learning rate, beside that of the warm-up, in the 1-based `iteration`."""

    def step(self, epoch: int | None = None) -> None:
        """Begin the next iteration and set its learning rates; `epoch`, part of PyTorch's interface, is ignored."""
        # The optimizer took its step before the first call, so iteration 1 is over: begin iteration 2.
        late = self.last_epoch == 0 and getattr(self.optimizer, "_opt_called", False)
        self.last_epoch += 2 if late else 1
        self._set_rates()

    def get_lr(self) -> list[float | Tensor]:
        """Compute the learning rate of each parameter group in the current iteration."""
        iteration = max(self.last_epoch, 1)
        warmup, decay = self._warmup(iteration), self._decay(iteration)
        return [base * warmup * decay for base in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the iteration in `state_dict`; keep what the constructor was given."""
        self.last_epoch = state_dict["last_epoch"]
        self._set_rates()

    def _warmup(self, iteration: int) -> float:
        if iteration >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        progress = iteration / self.warmup_iters
        return self.warmup_factor * (1 - progress) + progress

    def _initial_step(self) -> None:
        self.last_epoch += 1
        self._set_rates()

    def _set_rates(self) -> None:
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


class WarmupMultiStepLR(_WarmupLR):
    """Schedule with a warm-up and decay(i) = gamma^(number of milestones <= i) in the 1-based iteration i.

    Raise ValueError if the milestones do not increase, or the method of the warm-up is unknown.

    Args:
        optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch: see `_WarmupLR`.
        milestones, gamma: increasing 1-based iterations, and the factor at each.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        if list(milestones) != sorted(milestones):
            raise ValueError(f"Milestones must increase; they are {list(milestones)}")
        self.milestones = list(milestones)
        self.gamma = gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self, iteration: int) -> float:
        return self.gamma ** bisect_right(self.milestones, iteration)


class WarmupCosineLR(_WarmupLR):
    """Schedule with a warm-up and half a cosine after it (Loshchilov and Hutter, 2017, eq. 5, without restarts).

    decay(i) = (1 + cos(pi * (i - warmup_iters) / (max_iter + 1 - warmup_iters))) / 2 in the 1-based iteration i, from 1
    at the end of the warm-up to 0 in the iteration after the last, so that the last one still trains. A training that
    resumes with another `max_iter` goes on along the curve of that number.

    Args:
        optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch: see `_WarmupLR`.
        max_iter: last iteration.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iter: int,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        self.max_iter = max_iter
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self, iteration: int) -> float:
        done = (iteration - self.warmup_iters) / max(self.max_iter + 1 - self.warmup_iters, 1)
        return (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2


def make_lr_scheduler(cfg: Config, optimizer: Optimizer) -> WarmupMultiStepLR | WarmupCosineLR:
    """Make the schedule that SOLVER.* describes; raise InputError if a value is invalid."""
    check_values(cfg)
    solver = cfg.SOLVER
    warmup = (solver.WARMUP_FACTOR, solver.WARMUP_ITERS, solver.WARMUP_METHOD)
    if solver.SCHEDULE == "cosine":
        return WarmupCosineLR(optimizer, solver.MAX_ITER, *warmup)
    return WarmupMultiStepLR(optimizer, solver.STEPS, solver.GAMMA, *warmup)
