"""Training step of a config on a tiny detector."""

import functools
import types

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from fcos_core.config import cfg
from fcos_core.engine import test as engine_test
from fcos_core.engine import train
from fcos_core.engine.train import make_training_step
from fcos_core.modeling.detector import build_detection_model
from fcos_core.solver import make_optimizer
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList

HRNET = {
    **{"WIDTH": 4, "STEM_CHANNELS": 8, "STAGE1_CHANNELS": 4},
    **{"NUM_MODULES": (1,) * 4, "NUM_BLOCKS": (1,) * 4, "NUM_BRANCHES": (1, 1, 1, 2)},
}


def step_of(*opts):
    config = cfg.clone()
    config.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.CONV_BODY", "HRNET", "MODEL.FCOS.NUM_CLASSES", 3])
    config.merge_from_list([word for key, value in HRNET.items() for word in (f"MODEL.HRNET.{key}", value)])
    config.merge_from_list(["MODEL.HRNET.FPN.OUT_CHANNEL", 64, "MODEL.FCOS.NUM_CONVS", 1, *opts])
    torch.manual_seed(0)
    model = build_detection_model(config).to(config.MODEL.DEVICE)
    return make_training_step(config, model.train(), make_optimizer(config, model))


def batch(count, height, width):
    images = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))
    target = BoxList(torch.tensor([[2.0, 2.0, 40.0, 50.0], [30.0, 8.0, 60.0, 28.0]]), (width, height))
    target.add_field("labels", torch.ones(2, dtype=torch.int64))
    return ImageList(images, [(height, width)] * count), [target] * count


def gradients(step, *size):
    losses = step.compute_gradients(*batch(*size))
    return losses, torch.cat([parameter.grad.flatten() for parameter in step.model.parameters()])


def assert_same(found, expected):
    for name, loss in expected[0].items():
        assert found[0][name].item() == pytest.approx(loss.item(), rel=1e-5)
    # The tolerance for float32 gradients: rounding may switch a unit on or off.
    assert (found[1] - expected[1]).norm() <= 1e-2 * expected[1].norm()


@pytest.mark.parametrize("last", [True, False])
def test_layout_in_memory(last):
    step = step_of("SOLVER.CHANNELS_LAST", last)
    seen = []
    step.model.rpn.head.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    gradients(step, 2, 64, 128)
    assert seen[0].is_contiguous(memory_format=torch.channels_last) == last
    # A checkpoint has the same shapes and values in either layout.
    other = step_of("SOLVER.CHANNELS_LAST", not last)
    states = step.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert_same(gradients(step, 2, 64, 128), gradients(other, 2, 64, 128))


@pytest.fixture
def graphs(monkeypatch):
    """Count the graphs that torch.compile captures, forward and backward; it generates no kernels."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch.compiler.reset()


def test_compiled_parts_compute_the_same_in_a_bounded_number_of_graphs(graphs):
    step, eager = step_of("SOLVER.COMPILE", True), step_of()
    assert list(step.model.state_dict()) == list(eager.model.state_dict())
    sizes = [(2, 64, 128), (2, 96, 160), (2, 128, 96), (2, 160, 192), (2, 64, 128)]
    for size in sizes:
        assert_same(gradients(step, *size), gradients(eager, *size))
    # Body and head have a graph for the first size and one for any size; the head has a third one, as PyTorch keeps
    # a feature map's side of one cell constant.
    assert graphs() <= 5


def test_compiled_parts_and_stages_that_run_again_in_distributed_data_parallel(graphs, tmp_path):
    opts = ("MODEL.BACKBONE.CHECKPOINT_STAGES", (3, 4), "SOLVER.ACCUMULATE_STEPS", 2)
    expected = gradients(step_of(), 2, 64, 128)
    assert_same(gradients(step_of(*opts), 2, 64, 128), expected)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for compiled in (False, True):
            step = step_of(*opts, "SOLVER.COMPILE", compiled)
            step.model = DistributedDataParallel(step.model, find_unused_parameters=True)
            assert_same(gradients(step, 2, 64, 128), expected)
    finally:
        dist.destroy_process_group()
    assert graphs() > 0


def compare_over_processes(rank, world_size, folder):
    nn.Module.compile = functools.partialmethod(nn.Module.compile, backend="aot_eager")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    opts = ("MODEL.SYNCBN", True)
    compiled, eager = (gradients(step_of(*opts, *more), 2, 64, 128) for more in (("SOLVER.COMPILE", True), ()))
    assert counters["stats"]["unique_graphs"] > 0
    assert_same(compiled, eager)
    dist.destroy_process_group()


def test_compiled_steps_with_batch_norms_over_processes(tmp_path):
    mp.start_processes(compare_over_processes, args=(2, str(tmp_path)), nprocs=2, start_method="forkserver")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    # Thirty roundings in a row, from image to loss: 2^-11 each with TF32, 2^-8 with bfloat16.
    ("precision", "tolerance"),
    [("float32", 30 * 2**-11), ("float16", 30 * 2**-11), ("bfloat16", 30 * 2**-8)],
)
def test_steps_on_a_gpu_are_those_on_the_cpu(precision, tolerance, compiled):
    opts = ("SOLVER.PRECISION", precision, "SOLVER.COMPILE", compiled, "MODEL.DEVICE", "cuda")
    step, reference = step_of(*opts), step_of()
    step.scaler = torch.amp.GradScaler("cuda", init_scale=256.0, enabled=precision == "float16")
    for _ in range(3):
        found, expected = (gradients(one, 2, 64, 128)[0] for one in (step, reference))
        for name, loss in expected.items():
            assert found[name].item() == pytest.approx(loss.item(), rel=tolerance)
        step.update()
        reference.update()


class Saver:
    """A checkpointer that remembers the names that it is asked for."""

    def __init__(self):
        self.saved = []

    def save(self, name, **_):
        self.saved.append(name)


def test_no_model_is_the_best_by_a_metric_without_boxes(monkeypatch, caplog):
    config = cfg.clone()
    config.merge_from_list(["TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "APl", "DATASETS.TEST", ("cells",)])
    saver, values = Saver(), iter([-1.0, 0.0])
    monkeypatch.setattr(train, "test", lambda *_, **__: {"cells": {"bbox": {"APl": next(values)}}})
    evaluation = train._Evaluation(config, torch.nn.Identity(), {}, saver, {})
    evaluation(False)
    assert not saver.saved and "APl is -1, as cells has no box for it" in caplog.text
    evaluation(False)
    assert saver.saved == ["model_best"]


def test_the_evaluation_knows_how_many_detections_an_image_has(monkeypatch):
    config = cfg.clone()
    config.merge_from_list(["TEST.DETECTIONS_PER_IMG", 300])
    seen = []
    monkeypatch.setattr(engine_test, "inference", lambda *_, **options: seen.append(options["detections_per_img"]))
    loader = types.SimpleNamespace(dataset=None)
    engine_test.test(config, {"cells": loader}, torch.nn.Identity())
    assert seen == [300]


def test_only_the_last_test_of_a_training_writes_a_report(monkeypatch):
    config, seen = cfg.clone(), []
    monkeypatch.setattr(engine_test, "inference", lambda *_, **options: seen.append(options["report"]))
    loaders = {"cells": types.SimpleNamespace(dataset=None)}
    for switch in (True, False):
        config.merge_from_list(["TEST.REPORT", switch])
        for final in (True, False):
            engine_test.test(config, loaders, torch.nn.Identity(), final=final)
    assert seen == [True, False, False, False]
