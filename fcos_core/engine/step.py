"""One step of the optimizer."""

import contextlib
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fcos_core.modeling.fcos.targets import AssignedTargets
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList

AssignTargets = Callable[[tuple[int, int], Sequence[BoxList]], AssignedTargets]


class TrainingStep:
    """Computes the gradients of a batch and updates the parameters with them.

    Args:
        model: images and targets to a dict of losses, on `device`.
        optimizer, device: of the model's parameters.
        assign_targets: (height, width) of the padded images and a process's whole share of boxes to targets that can
            be sliced by images, such as `Detector.assign_targets`; None gives the boxes themselves to the model.
        scaler: scales the loss so that float16 gradients do not underflow; None does not scale.
        precision: dtype that autocast computes in; None computes in the parameters' dtype.
        accumulate_steps: parts that a batch is computed in; more than 1 without `assign_targets` raise ValueError.
        clip_gradient_norm: largest norm of the gradient; 0 does not clip.
        channels_last: give the model channels-last images, which fit channels-last weights.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device | str,
        assign_targets: AssignTargets | None = None,
        scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype | None = None,
        accumulate_steps: int = 1,
        clip_gradient_norm: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        if accumulate_steps > 1 and assign_targets is None:
            raise ValueError(
                f"accumulate_steps is {accumulate_steps}: give assign_targets, which normalizes by the whole batch."
            )
        self.model = model
        self.optimizer = optimizer
        self.device = torch.device(device)
        self.assign_targets = assign_targets
        self.scaler = scaler or torch.amp.GradScaler(self.device.type, enabled=False)
        self.precision = precision
        self.accumulate_steps = accumulate_steps
        self.clip_gradient_norm = clip_gradient_norm
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def compute_gradients(
        self,
        images: ByteImages | ImageList,
        targets: Sequence[BoxList],
        report_phase: Callable[[str], None] = lambda phase: None,
    ) -> dict[str, Tensor]:
        """Set every parameter's gradient to the gradient of the batch; return the share's losses, without gradient.

        Args:
            images, targets: this process's share of the batch and the boxes of each image, on any device.
            report_phase: called with "forward" and "backward" before each of these phases.
        """
        report_phase("forward")
        boxes = [target.to(self.device) for target in targets]
        # Assigned once, to normalize by the whole batch: losses and gradients of its parts then add up to its own.
        assigned = self.assign_targets(images.padded_size, boxes) if self.assign_targets else boxes
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        bounds = [len(images) * part // self.accumulate_steps for part in range(self.accumulate_steps + 1)]
        for start, stop in pairwise(bounds):
            # Processes average the sum of the parts' gradients, with the last part.
            accumulates = stop < len(images) and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if accumulates else contextlib.nullcontext():
                report_phase("forward")
                part = self._network_input(images[start:stop])
                with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
                    losses = self.model(part, assigned[start:stop])
                report_phase("backward")
                self.scaler.scale(sum(losses.values())).backward()
            totals = {name: totals.get(name, 0) + loss.detach() for name, loss in losses.items()}
        return totals

    def clip_gradients(self) -> Tensor | None:
        """Scale the gradient down to the largest norm; return its norm before, a scalar, or None without clipping."""
        if not self.clip_gradient_norm:
            return None
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, self.clip_gradient_norm)

    def update(self) -> None:
        """Update the parameters, unless float16 gradients overflowed."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _network_input(self, images: ByteImages | ImageList) -> ImageList:
        images = images.to(self.device)
        if isinstance(images, ByteImages):
            return images.normalize(self.memory_format)
        return images.to(memory_format=self.memory_format)
