"""Sequence of backbone blocks with optional activation checkpointing."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcos_core.layers.fold_together import folded_together

Features = TypeVar("Features", Tensor, list[Tensor])


class Stage(nn.Sequential):
    """Sequence of blocks, with the state-dict keys of `nn.Sequential`.

    If `checkpointed`, only the input of each block is kept for the backward pass, which then runs the block a second
    time (Chen et al. 2016, arXiv:1604.06174).
    """

    def __init__(self, *blocks: nn.Module, checkpointed: bool = False) -> None:
        super().__init__(*blocks)
        self.checkpointed = checkpointed

    def forward(self, x: Features) -> Features:
        if not torch.is_grad_enabled():
            return super().forward(x)
        if not self.checkpointed:
            return _run(super().forward, self, x)
        for block in self:
            # Backbones draw no random numbers, so the second run needs no saved random state.
            x = checkpoint(_run, block, block, x, use_reentrant=False, preserve_rng_state=False)
        return x


def _run(function: Callable[[Features], Features], module: nn.Module, x: Features) -> Features:
    """Return `function(x)`, a run of `module`, with the norms of `module` folded together."""
    if torch.compiler.is_compiling():
        return function(x)
    with folded_together(module):
        return function(x)
