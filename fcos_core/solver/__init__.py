"""The optimizer and its learning-rate schedule."""

from fcos_core.solver.lr_scheduler import WarmupCosineLR, WarmupMultiStepLR, make_lr_scheduler
from fcos_core.solver.optimizer import make_optimizer

__all__ = ["WarmupCosineLR", "WarmupMultiStepLR", "make_lr_scheduler", "make_optimizer"]
