"""Stochastic gradient descent with momentum."""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from fcos_core.config import Config


def make_optimizer(cfg: "Config", model: nn.Module) -> torch.optim.SGD:
    """SGD over the trained parameters of `model`.

    Two groups: weights at BASE_LR with WEIGHT_DECAY, and parameters with "bias" in their name at
    BASE_LR * BIAS_LR_FACTOR with WEIGHT_DECAY_BIAS.
    """
    solver = cfg.SOLVER
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    weights = {
        "params": [parameter for name, parameter in trained if "bias" not in name],
        "lr": solver.BASE_LR,
        "weight_decay": solver.WEIGHT_DECAY,
    }
    biases = {
        "params": [parameter for name, parameter in trained if "bias" in name],
        "lr": solver.BASE_LR * solver.BIAS_LR_FACTOR,
        "weight_decay": solver.WEIGHT_DECAY_BIAS,
    }
    return torch.optim.SGD([weights, biases], lr=solver.BASE_LR, momentum=solver.MOMENTUM)
