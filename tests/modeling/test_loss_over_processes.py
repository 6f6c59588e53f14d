"""Losses of a batch that processes share, each with a different number of boxes."""

import pytest
import torch

from fcos_core.modeling.fcos.loss import FCOSLoss
from fcos_core.modeling.fcos.targets import TargetAssigner
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils import comm

BOXES = [[[2, 2, 20, 20], [8, 8, 30, 28]], [], [[1, 3, 13, 31]], []]
# Images of each process. In two batches no image has boxes.
SPLITS = [[[0], [1, 2, 3]], [[3, 0], [2, 1]], [[3], [2], [1], [0]], [[1], [3]], [[1, 3]]]


def losses_of(images, radius, *options):
    """Losses of these images of the batch and their gradients with respect to the head's outputs."""
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.rand(len(BOXES), channels, 4, 4, generator=generator).double() + 0.5 for channels in (3, 4, 1)]
    outputs = [tensor[images].clone().requires_grad_() for tensor in outputs]
    targets = []
    for image in images:
        target = BoxList(torch.tensor(BOXES[image], dtype=torch.float64).reshape(-1, 4), (32, 32))
        target.add_field("labels", torch.ones(len(target), dtype=torch.int64))
        targets.append(target)
    assigned = TargetAssigner([8], [(-1, 1000)], radius)(
        [(4, 4)], (32, 32), targets, torch.float64, torch.device("cpu")
    )
    losses = FCOSLoss(2.0, 0.25, *options)(*([tensor] for tensor in outputs), assigned)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}, [tensor.grad for tensor in outputs]


def losses_of_processes(monkeypatch, split, *options):
    """Losses and gradients of each process; the processes take turns in this one."""
    sums = []
    with monkeypatch.context() as patch:
        patch.setattr(comm, "get_world_size", lambda: len(split))
        # First each process tells its sums, then each learns the total.
        patch.setattr(comm, "all_reduce_sum", lambda own: sums.append(own) or own)
        for share in split:
            losses_of(share, *options)
        patch.setattr(comm, "all_reduce_sum", lambda own: sum(sums))
        return [losses_of(share, *options) for share in split]


@pytest.mark.parametrize(
    ("radius", "normalized", "normalizer"), [(0.0, False, "positives_and_images"), (0.8, True, "positives")]
)
@pytest.mark.parametrize("quality", ["ctrness", "iou"])
@pytest.mark.parametrize("kind", ["iou", "linear_iou", "giou", "diou", "ciou"])
def test_any_split_averages_to_the_whole_batch(monkeypatch, kind, quality, normalizer, radius, normalized):
    options = (radius, kind, normalized, quality, normalizer)
    for split in SPLITS:
        whole_losses, whole_gradients = losses_of([image for share in split for image in share], *options)
        shares = losses_of_processes(monkeypatch, split, *options)
        for name, value in whole_losses.items():
            assert sum(losses[name] for losses, _ in shares) / len(split) == pytest.approx(value, rel=1e-12)
        for index, gradient in enumerate(whole_gradients):
            # DistributedDataParallel averages gradients over the processes.
            shared = torch.cat([gradients[index] for _, gradients in shares]) / len(split)
            torch.testing.assert_close(shared, gradient, rtol=1e-12, atol=1e-15)
