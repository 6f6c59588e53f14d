"""Trained scalar factor."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies its input by one trained number, so that levels can share a regression branch (FCOS, sec. 3.2)."""

    def __init__(self, init_value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([init_value]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
