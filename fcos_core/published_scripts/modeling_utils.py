"""Published `modeling.utils`."""

from collections.abc import Sequence

import torch
from torch import Tensor


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate as `torch.cat`; a single tensor is returned itself, without a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)
