"""One step of the optimizer."""

import contextlib
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList


class TrainingStep:
    """Gradients of a batch and the update they make.

    Args:
        model: images and targets to a dict of losses.
        optimizer: of the model's parameters.
        device: where the model is.
        scaler: scales the loss against underflow of float16; without effect where it is not enabled.
        precision: dtype that autocast computes in; None: the parameters'.
        accumulate_steps: parts that a batch is taken in.
        clip_gradient_norm: most that the gradient's norm may be; 0: anything.
        channels_last: images are given to the model so laid out, as its weights should be.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device | str,
        scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype | None = None,
        accumulate_steps: int = 1,
        clip_gradient_norm: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.device = torch.device(device)
        self.scaler = scaler or torch.amp.GradScaler(self.device.type, enabled=False)
        self.precision = precision
        self.accumulate_steps = accumulate_steps
        self.clip_gradient_norm = clip_gradient_norm
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def compute_gradients(
        self, images: ImageList, targets: Sequence[BoxList], report_phase: Callable[[str], None]
    ) -> dict[str, Tensor]:
        """Set every parameter's gradient to the batch's.

        Args:
            images: this process's share of the batch, on any device.
            targets: an image each.
            report_phase: is called with "forward" and "backward" when the phase begins.

        Returns:
            Losses of the share, scalars without gradient.
        """
        targets = [target.to(self.device) for target in targets]
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        parts = _parts(images, targets, self.accumulate_steps)
        for number, (part, part_targets) in enumerate(parts, 1):
            # Normalizers are those of the whole batch, so that the parts' losses and gradients add up to its own.
            batch_targets = (targets,) if len(parts) > 1 else ()
            with contextlib.nullcontext() if number == len(parts) else self._without_averaging():
                report_phase("forward")
                part = part.to(self.device, memory_format=self.memory_format)
                with self._autocast():
                    losses = self.model(part, part_targets, *batch_targets)
                report_phase("backward")
                self.scaler.scale(sum(losses.values())).backward()
            totals = {name: totals.get(name, 0) + loss.detach() for name, loss in losses.items()}
        return totals

    def clip_gradients(self) -> Tensor | None:
        """Bring the gradient's norm down where it is too large; its norm before, None where none is asked for."""
        if not self.clip_gradient_norm:
            return None
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, self.clip_gradient_norm)

    def update(self) -> None:
        """Let the optimizer take its step; left out where float16 gradients overflowed."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _without_averaging(self) -> contextlib.AbstractContextManager:
        """Processes average the sum of the parts' gradients, with the last part."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else contextlib.nullcontext()

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision is not None)


def _parts(images: ImageList, targets: Sequence[BoxList], count: int) -> list[tuple[ImageList, Sequence[BoxList]]]:
    """The batch in `count` parts that differ by at most one image."""
    bounds = [len(targets) * part // count for part in range(count + 1)]
    return [(images[start:stop], targets[start:stop]) for start, stop in pairwise(bounds)]
