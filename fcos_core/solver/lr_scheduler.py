"""Learning rate with warm-up and steps."""

from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fcos_core.config import Config
from fcos_core.config.checks import WARMUP_METHODS, check_values


class WarmupMultiStepLR(LRScheduler):
    """At the 1-based iteration i: base * warmup(i) * gamma^(number of milestones <= i).

    `step()` may be called at the start of every iteration, as HRNet-FCOS does, or at its end, as PyTorch
    advises: iteration i has the same learning rate either way. `last_epoch` is the number of calls that
    opened an iteration.

    Args:
        optimizer: its groups' learning rates are the bases.
        milestones: increasing 1-based iterations.
        gamma: factor at each milestone.
        warmup_factor, warmup_iters: warmup(i) is the factor while i < warmup_iters ("constant"), or goes from
            it at 0 to 1 at warmup_iters in a straight line ("linear"); 1 from there on.
        warmup_method: "constant" or "linear".

    Raises:
        ValueError: milestones that do not increase, or another method.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
    ) -> None:
        if list(milestones) != sorted(milestones):
            raise ValueError(f"Milestones must increase; they are {list(milestones)}")
        if warmup_method not in WARMUP_METHODS:
            raise ValueError(f"The warm-up method is 'constant' or 'linear', not {warmup_method!r}")
        self.milestones = list(milestones)
        self.gamma = gamma
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        iteration = max(self.last_epoch, 1)
        warmup, decay = self._warmup(iteration), self.gamma ** bisect_right(self.milestones, iteration)
        return [base * warmup * decay for base in self.base_lrs]

    def _warmup(self, iteration: int) -> float:
        if iteration >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        progress = iteration / self.warmup_iters
        return self.warmup_factor * (1 - progress) + progress

    def step(self, epoch: None = None) -> None:
        """Open the next iteration."""
        # A first call that finds iteration 1 trained already, on the rate set at the start, opens the second.
        trained = getattr(self.optimizer, "_opt_called", False)
        self.last_epoch += 2 if self.last_epoch == 0 and trained else 1
        self._apply()

    def load_state_dict(self, state_dict: dict) -> None:
        """Resume at the iteration of `state_dict`; milestones, factors and warm-up stay as constructed."""
        self.last_epoch = state_dict["last_epoch"]
        self._apply()

    def _initial_step(self) -> None:
        self.last_epoch = 0
        self._apply()

    def _apply(self) -> None:
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


def make_lr_scheduler(cfg: Config, optimizer: Optimizer) -> WarmupMultiStepLR:
    """The schedule that SOLVER.* describes.

    Raises:
        InputError: STEPS that do not increase, or an unknown WARMUP_METHOD.
    """
    check_values(cfg)
    solver = cfg.SOLVER
    return WarmupMultiStepLR(
        optimizer, solver.STEPS, solver.GAMMA, solver.WARMUP_FACTOR, solver.WARMUP_ITERS, solver.WARMUP_METHOD
    )
