"""The law of docs/training.md: however a batch is split over processes, its losses and gradients are the same."""

import multiprocessing
import traceback
from itertools import accumulate, pairwise

import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel

from fcos_core.config import cfg
from fcos_core.engine.step import TrainingStep
from fcos_core.modeling.detector import build_detection_model
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList

IMAGES, SIDE = 6, 64
HRNET = {
    **{"WIDTH": 4, "STEM_CHANNELS": 8, "STAGE1_CHANNELS": 4},
    **{"NUM_MODULES": (1,) * 4, "NUM_BLOCKS": (1,) * 4, "NUM_BRANCHES": (1, 2, 2, 2)},
}
# Options of later FCOS, which change the normalizers.
LATER = {
    "CENTER_SAMPLING_RADIUS": 1.5,
    "IOU_LOSS_TYPE": "giou",
    "NORM_REG_TARGETS": True,
    "CENTERNESS_ON_REG": True,
    "USE_DCN_IN_TOWER": True,
    "LOSS_NORMALIZER": "positives",
}
LATER = [word for key, value in LATER.items() for word in (f"MODEL.FCOS.{key}", value)]
KINDS = {
    "HRNet": ("MODEL.BACKBONE.CONV_BODY", "HRNET"),
    "HRNet, SyncBN, IoU quality": (
        *("MODEL.BACKBONE.CONV_BODY", "HRNET", "MODEL.SYNCBN", True, "MODEL.FCOS.BOX_QUALITY", "iou", *LATER),
    ),
    "ResNet, later FCOS": ("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 64, *LATER),
}


def detector(kind, dtype):
    config = cfg.clone()
    config.merge_from_list([word for key, value in HRNET.items() for word in (f"MODEL.HRNET.{key}", value)])
    config.merge_from_list(["MODEL.HRNET.FPN.OUT_CHANNEL", 64, "MODEL.FCOS.NUM_CLASSES", 3, "MODEL.FCOS.NUM_CONVS", 1])
    config.merge_from_list(["MODEL.DEVICE", "cpu", *KINDS[kind]])
    torch.manual_seed(0)
    return build_detection_model(config).to(dtype).train()


def batch(seed, counts, dtype):
    """Images and targets with as many boxes as `counts` says."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(counts), 3, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype)
    targets = []
    for count in counts:
        corners = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64).sort(dim=1).values * (SIDE - 1)
        target = BoxList(corners.reshape(count, 4).to(dtype), (SIDE, SIDE))
        target.add_field("labels", torch.randint(1, 3, (count,), generator=generator))
        targets.append(target)
    return images, targets


def take(rank, splits, kind, dtype, seed, counts, accumulate_steps):
    """This process's share of the losses, and the gradients of the batch."""
    images, targets = batch(seed, counts, dtype)
    start, stop = list(pairwise([0, *accumulate(splits)]))[rank]
    model = detector(kind, dtype)
    assign_targets = model.assign_targets
    if len(splits) > 1:
        model = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(model, optimizer, "cpu", assign_targets, accumulate_steps=accumulate_steps)
    share = ImageList(images[start:stop], [(SIDE, SIDE)] * (stop - start))
    losses = step.compute_gradients(share, targets[start:stop])
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return torch.stack(list(losses.values())), gradients


def serve(rank, world_size, folder, pipe):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{world_size}", rank=rank, world_size=world_size)
    while (task := pipe.recv()) is not None:
        try:
            losses, gradients = take(rank, *task)
            # Arrays travel by value: a tensor's memory would go with the process. DDP gives all the same gradients.
            pipe.send((losses.numpy(), [gradient.numpy() for gradient in gradients if rank == 0]))
        except Exception:
            pipe.send(traceback.format_exc())
    dist.destroy_process_group()


class Processes:
    """Processes of one group that take shares of batches."""

    def __init__(self, world_size, folder):
        context = multiprocessing.get_context("forkserver")
        self.pipes, self.processes = [], []
        for rank in range(world_size):
            pipe, its_end = context.Pipe()
            process = context.Process(target=serve, args=(rank, world_size, folder, its_end), daemon=True)
            process.start()
            self.pipes.append(pipe)
            self.processes.append(process)

    def take(self, *task):
        """Mean of the losses over the processes, and the gradients of process 0."""
        for pipe in self.pipes:
            pipe.send(task)
        answers = []
        for pipe in self.pipes:
            assert pipe.poll(60), "no answer"
            answers.append(pipe.recv())
        assert not any(isinstance(answer, str) for answer in answers), answers
        losses = sum(torch.from_numpy(losses) for losses, _ in answers) / len(answers)
        return losses, [torch.from_numpy(gradient) for gradient in answers[0][1]]

    def close(self):
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join(30)
            assert process.exitcode == 0


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    groups = {world_size: Processes(world_size, folder) for world_size in (2, 4)}
    yield groups
    for group in groups.values():
        group.close()


@st.composite
def splits(draw):
    """A batch in 2 or 4 shares of at least one image, the number of images in each."""
    parts = draw(st.sampled_from([2, 4]))
    bounds = draw(st.lists(st.integers(1, IMAGES - 1), min_size=parts - 1, max_size=parts - 1, unique=True))
    return [stop - start for start, stop in pairwise([0, *sorted(bounds), IMAGES])]


# The tolerances: float64 1e-9; float32 losses 1e-5 and gradient norms 1e-2.
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "norm_tolerance"),
    [(torch.float64, 1e-9, 1e-9), (torch.float32, 1e-5, 1e-2)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("kind", KINDS)
# Boxes of each image; an image may have none, and so may all of a share.
@given(split=splits(), counts=st.lists(st.integers(0, 5), min_size=IMAGES, max_size=IMAGES), seed=st.integers(0, 99))
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_any_split_gives_one_result(processes, kind, dtype, loss_tolerance, norm_tolerance, split, counts, seed):
    # The parts of an accumulated share have statistics of their own where BatchNorms are trained.
    steps = 1 if "SyncBN" in kind else min(split)
    whole_losses, whole = take(0, [IMAGES], kind, dtype, seed, counts, 1)
    losses, gradients = processes[len(split)].take(split, kind, dtype, seed, counts, steps)
    torch.testing.assert_close(losses, whole_losses, rtol=loss_tolerance, atol=0)
    for gradient, expected in zip(gradients, whole, strict=True):
        assert (gradient - expected).norm() <= norm_tolerance * expected.norm() + 1e-12
