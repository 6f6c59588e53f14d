"""Published `utils.checkpoint.Checkpointer`: the checkpointer without a config."""

import logging
from typing import Any

import torch

from fcos_core.weights.checkpointer import DetectronCheckpointer


class Checkpointer(DetectronCheckpointer):
    """`DetectronCheckpointer` without its first argument, the config."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        save_dir: str = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(None, model, optimizer, scheduler, save_dir, save_to_disk, logger)
