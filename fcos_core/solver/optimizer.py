"""Stochastic gradient descent with momentum."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from fcos_core.errors import require

if TYPE_CHECKING:
    from fcos_core.config import Config


def make_optimizer(cfg: "Config", model: nn.Module) -> torch.optim.SGD:
    """SGD over the trained parameters of `model`, one group each as in published training states.

    A parameter with "bias" in its name has the learning rate BASE_LR * BIAS_LR_FACTOR and the weight decay
    WEIGHT_DECAY_BIAS, any other BASE_LR and WEIGHT_DECAY.

    Raises:
        InputError: a rate or decay that SGD cannot take.
    """
    solver = cfg.SOLVER
    for key in ("BASE_LR", "BIAS_LR_FACTOR", "WEIGHT_DECAY", "WEIGHT_DECAY_BIAS", "MOMENTUM"):
        require(solver[key] >= 0, f"SOLVER.{key}", solver[key], "0 or more")
    weight = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    bias = {"lr": solver.BASE_LR * solver.BIAS_LR_FACTOR, "weight_decay": solver.WEIGHT_DECAY_BIAS}
    groups = [
        {"params": [parameter], **(bias if "bias" in name else weight)}
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM)
