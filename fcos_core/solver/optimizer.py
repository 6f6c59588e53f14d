"""Stochastic gradient descent with momentum."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from fcos_core.config import Config
from fcos_core.config.checks import check_values

# Options of a parameter group that one call of `sgd` applies to all its tensors.
_SHARED_OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize", "foreach")


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` that updates all parameters with equal options in one call.

    PyTorch batches its kernels within a parameter group only, but published training states have one group per
    parameter. Groups and state dicts keep that layout. On the CPU every bit equals that of `torch.optim.SGD`.
    """

    def __init__(self, params: ParamsT, lr: float, momentum: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; `closure`, if given, computes gradients and the returned loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for (options, fused, _), parameters in self._batches().items():
            self._update(parameters, fused, **dict(options))
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the momentum of a state of this class or of `torch.optim.SGD`; keep the options of this optimizer.

        Options such as the weight decay are those of the constructor, because a config that was changed between two
        runs shall hold. Each momentum is laid out in memory as its parameter is, so that the fused kernel can take it.
        Raise ValueError if the state is of another kind of optimizer, or of other parameters.
        """
        _check_state(state_dict)
        options = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, options, strict=True):
            group.update(own)
            for parameter in group["params"]:
                self._lay_out_momentum(parameter, bool(group["momentum"]))

    def _lay_out_momentum(self, parameter: Tensor, wanted: bool) -> None:
        momentum = self.state.get(parameter, {}).get("momentum_buffer")
        if momentum is None:
            return
        if momentum.shape != parameter.shape:
            raise ValueError(f"the momentum of a parameter is {tuple(momentum.shape)}, not {tuple(parameter.shape)}")
        if wanted:
            self.state[parameter]["momentum_buffer"] = torch.empty_like(parameter, dtype=momentum.dtype).copy_(momentum)
        else:  # a momentum of long ago must not act if SOLVER.MOMENTUM is set again
            del self.state[parameter]["momentum_buffer"]

    def _batches(self) -> dict[tuple[Any, ...], list[Tensor]]:
        """Collect the parameters with a gradient by everything that one call of `sgd` needs to be equal."""
        batches = defaultdict(list)
        for group in self.param_groups:
            options = tuple((name, group[name]) for name in _SHARED_OPTIONS)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state.get(parameter, {}).get("momentum_buffer")
                fused = group["fused"] or _fits_fused_kernel(parameter, parameter.grad, momentum) or None
                # The kernels create the momentum of all their tensors in the first step, or of none.
                batches[options, fused, momentum is None].append(parameter)
        return batches

    def _update(self, parameters: list[Tensor], fused: bool | None, momentum: float, **options: Any) -> None:
        """Step `parameters` together; `fused` None lets PyTorch choose the kernel."""
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in parameters] if momentum else []
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        sgd(parameters, gradients, buffers, fused=fused, momentum=momentum, **options)
        if momentum:
            for parameter, buffer in zip(parameters, buffers, strict=True):
                self.state[parameter]["momentum_buffer"] = buffer


def _fits_fused_kernel(parameter: Tensor, gradient: Tensor, momentum: Tensor | None) -> bool:
    """Return True if the fused CUDA kernel can run: it walks the memory of all tensors in one order."""
    others = [gradient] if momentum is None else [gradient, momentum]
    return parameter.is_cuda and all(other.stride() == parameter.stride() for other in others)


def _check_state(state_dict: dict[str, Any]) -> None:
    """Raise ValueError unless `state_dict` is of SGD."""
    foreign = sorted({name for state in state_dict["state"].values() for name in state} - {"momentum_buffer"})
    lacking = [name for group in state_dict["param_groups"] for name in ("momentum", "dampening") if name not in group]
    if foreign or lacking:
        shown = f"has {foreign[0]}" if foreign else f"has no {lacking[0]}"
        raise ValueError(f"it is of another kind of optimizer than SGD: it {shown}")


def make_optimizer(cfg: Config, model: nn.Module) -> SGD:
    """Make SGD for the trainable parameters of `model`, with one group per parameter as in published training states.

    A parameter with "bias" in its name has the learning rate BASE_LR * BIAS_LR_FACTOR and the weight decay
    WEIGHT_DECAY_BIAS; any other parameter has BASE_LR and WEIGHT_DECAY. The learning rates of the offsets of deformable
    convolutions, whose names contain ".offset.", are also multiplied by DCONV_OFFSETS_LR_FACTOR. Raise InputError if a
    value is invalid.
    """
    check_values(cfg)
    solver = cfg.SOLVER
    weight, bias = (
        (solver.BASE_LR, solver.WEIGHT_DECAY),
        (solver.BASE_LR * solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS),
    )
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr, weight_decay = bias if "bias" in name else weight
        if ".offset." in name:
            lr *= solver.DCONV_OFFSETS_LR_FACTOR
        groups.append({"params": [parameter], "lr": lr, "weight_decay": weight_decay})
    return SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM)
