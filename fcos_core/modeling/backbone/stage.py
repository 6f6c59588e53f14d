"""Blocks of a backbone that are run, and if need be run again, one after another."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fcos_core.layers.fold_together import folded_together


class Stage(nn.Sequential):
    """Blocks in a row; `nn.Sequential`'s keys.

    Args:
        blocks: each takes what the one before gives.
        checkpointed: of each block only the input is kept for the backward pass, which runs the block a second time
            (Chen et al. 2016, arXiv:1604.06174).
    """

    def __init__(self, *blocks: nn.Module, checkpointed: bool = False) -> None:
        super().__init__(*blocks)
        self.checkpointed = checkpointed

    def forward(self, x: Any) -> Any:
        if not torch.is_grad_enabled():
            return super().forward(x)
        if not self.checkpointed:
            return _run(super().forward, self, x)
        for block in self:
            # Nothing in a backbone is drawn at random.
            x = checkpoint(_run, block, block, x, use_reentrant=False, preserve_rng_state=False)
        return x


def _run(function: Callable[[Any], Any], module: nn.Module, x: Any) -> Any:
    """`function`(x), which runs `module`."""
    if torch.compiler.is_compiling():
        return function(x)
    with folded_together(module):
        return function(x)
