"""The optimizer and its learning-rate schedule."""

from fcos_core.solver.lr_scheduler import WarmupMultiStepLR, make_lr_scheduler
from fcos_core.solver.optimizer import make_optimizer

__all__ = ["WarmupMultiStepLR", "make_lr_scheduler", "make_optimizer"]
