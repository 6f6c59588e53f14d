"""Losses of a batch that two processes share, each with a different number of boxes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fcos_core.modeling.fcos.loss import FCOSLoss
from fcos_core.modeling.fcos.targets import TargetAssigner
from fcos_core.structures.bounding_box import BoxList

BOXES = [[[2, 2, 20, 20], [8, 8, 30, 28]], []]


def losses_of(images):
    """Losses of these images of the batch and their gradients with respect to the head's outputs."""
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.rand(2, channels, 4, 4, generator=generator).double() + 0.5 for channels in (3, 4, 1)]
    outputs = [tensor[images].clone().requires_grad_() for tensor in outputs]
    targets = []
    for image in images:
        target = BoxList(torch.tensor(BOXES[image], dtype=torch.float64).reshape(-1, 4), (32, 32))
        target.add_field("labels", torch.ones(len(target), dtype=torch.int64))
        targets.append(target)
    assigned = TargetAssigner([8], [(-1, 1000)])([(4, 4)], targets, torch.float64, torch.device("cpu"))
    losses = FCOSLoss(2.0, 0.25)(*([tensor] for tensor in outputs), assigned)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}, [tensor.grad for tensor in outputs]


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(losses_of([rank]), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_two_shards_average_to_the_whole_batch(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    whole, whole_gradients = losses_of([0, 1])
    shards = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    for name, value in whole.items():
        assert sum(losses[name] for losses, _ in shards) / 2 == pytest.approx(value, rel=1e-12)
    for index, gradient in enumerate(whole_gradients):
        # DistributedDataParallel averages gradients over the processes.
        shared = torch.cat([gradients[index] for _, gradients in shards]) / 2
        torch.testing.assert_close(shared, gradient, rtol=1e-12, atol=1e-15)
