"""Stochastic gradient descent with momentum."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.config.checks import check_values

_OPTIONS = itemgetter(
    "lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize", "foreach", "differentiable"
)


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` whose groups of equal options take their step together.

    PyTorch batches the kernels of a step within a group; published training states have a group for each parameter.
    Groups and state dicts are as they would be; on CPU so is every bit.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = self._merged()
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, also of a `torch.optim.SGD`, or one whose tensors lie otherwise in memory."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            buffer = state.get("momentum_buffer")
            if buffer is not None:
                state["momentum_buffer"] = torch.empty_like(parameter, dtype=buffer.dtype).copy_(buffer)

    def _merged(self) -> list[dict[str, Any]]:
        merged: dict[tuple, dict[str, Any]] = {}
        for group in self.param_groups:
            options = _OPTIONS(group)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state.get(parameter, {}).get("momentum_buffer")
                fused = group["fused"] or _fits_one_kernel(parameter, buffer)
                # A first step makes the buffers, of all or of none.
                key = (*options, fused, buffer is None)
                if key not in merged:
                    merged[key] = {**group, "fused": fused, "params": []}
                merged[key]["params"].append(parameter)
        return list(merged.values())


def _fits_one_kernel(parameter: Tensor, buffer: Tensor | None) -> bool | None:
    """True for the kernel that reads and writes everything once; None: PyTorch chooses."""
    if parameter.is_cuda and parameter.stride() == parameter.grad.stride():
        return True if buffer is None or buffer.stride() == parameter.stride() else None
    return None


def make_optimizer(cfg: Config, model: nn.Module) -> SGD:
    """SGD over the trained parameters of `model`, one group each as in published training states.

    A parameter with "bias" in its name has the learning rate BASE_LR * BIAS_LR_FACTOR and the weight decay
    WEIGHT_DECAY_BIAS, any other BASE_LR and WEIGHT_DECAY.

    Raises:
        InputError: a rate or decay that SGD cannot take.
    """
    check_values(cfg)
    solver = cfg.SOLVER
    weight = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    bias = {"lr": solver.BASE_LR * solver.BIAS_LR_FACTOR, "weight_decay": solver.WEIGHT_DECAY_BIAS}
    groups = [
        {"params": [parameter], **(bias if "bias" in name else weight)}
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    return SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM)
