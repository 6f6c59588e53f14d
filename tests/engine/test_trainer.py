"""The training loop on a tiny network and random data, in one process."""

import json
import math

import pytest
import torch
from torch import nn

from fcos_core.engine.trainer import do_train
from fcos_core.errors import InputError
from fcos_core.solver import WarmupMultiStepLR
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList
from fcos_core.utils.checkpoint import DetectronCheckpointer
from fcos_core.utils.metrics import MetricLogger, SmoothedValue


class Losses(nn.Module):
    """A linear model whose loss on an image is the square of its output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)

    def forward(self, images, targets):
        value = self.linear(images.tensors.mean(dim=(2, 3))).square().mean()
        return {"loss_cls": value, "loss_reg": 0.5 * value}


class Loader:
    """Batches that are a function of the iteration; one image of `poison` is NaN, `broken` cannot be read."""

    def __init__(self, start, stop, poison=None, broken=None):
        self.iterations = range(start + 1, stop + 1)
        self.poison, self.broken = poison, broken
        self.dataset = self

    def image_id(self, index):
        return 100 + index

    def __len__(self):
        return len(self.iterations)

    def __iter__(self):
        for iteration in self.iterations:
            if iteration == self.broken:
                raise InputError("image 7 cannot be read")
            images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(iteration))
            if iteration == self.poison:
                images[1] = math.nan
            yield ImageList(images, [(4, 4)] * 2), [BoxList([], (4, 4))] * 2, [iteration, iteration + 1]


def run(folder, stop, period=100, **faults):
    model = Losses()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = WarmupMultiStepLR(optimizer, (4,), warmup_iters=3, warmup_method="constant")
    checkpointer = DetectronCheckpointer(None, model, optimizer, scheduler, str(folder))
    arguments = {"iteration": 0, **(checkpointer.resume() or {})}
    do_train(
        model,
        Loader(arguments["iteration"], stop, **faults),
        optimizer,
        scheduler,
        checkpointer,
        "cpu",
        period,
        arguments,
    )
    return model


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = run(tmp_path / "whole", stop=7)
    run(tmp_path / "parts", stop=3)
    parts = run(tmp_path / "parts", stop=7)
    assert torch.equal(whole.linear.weight, parts.linear.weight)
    assert torch.equal(whole.linear.bias, parts.linear.bias)


def test_checkpoints_are_saved_by_period_and_at_the_end(tmp_path):
    run(tmp_path, stop=5, period=2)
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_0000002.pth", "model_0000004.pth", "model_final.pth"]
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 5


def test_metrics_are_written_every_twenty_iterations_and_at_the_end(tmp_path):
    run(tmp_path, stop=45)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [20, 40, 45]
    assert rows[-1]["loss"] == pytest.approx(3 * rows[-1]["loss_reg"])  # loss_cls is twice loss_reg
    assert rows[-1]["lr"] == pytest.approx(0.01)


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    before = run(tmp_path / "before", stop=3)
    with pytest.raises(InputError, match=r"not finite at iteration 4: .*loss_cls nan.*image ids \[104, 105\]"):
        run(tmp_path / "poisoned", stop=9, poison=4)
    saved = torch.load(tmp_path / "poisoned" / "model_nonfinite.pth", weights_only=True)
    assert saved["iteration"] == 3
    assert torch.equal(saved["model"]["linear.weight"], before.linear.weight)
    assert not (tmp_path / "poisoned" / "last_checkpoint").exists()


def test_an_image_that_cannot_be_read_does_not_cost_what_was_trained(tmp_path):
    with pytest.raises(InputError, match="image 7"):
        run(tmp_path / "parts", stop=6, broken=4)
    assert torch.load(tmp_path / "parts" / "model_0000003.pth", weights_only=True)["iteration"] == 3
    assert torch.equal(run(tmp_path / "parts", stop=6).linear.weight, run(tmp_path / "whole", stop=6).linear.weight)


def test_median_is_of_the_window_and_average_of_all():
    value = SmoothedValue(window_size=3)
    for number in (10.0, 1.0, 2.0, 6.0):
        value.update(number)
    assert (value.median, value.global_avg) == (2.0, 4.75)


def test_metrics_read_as_parsers_expect():
    meters = MetricLogger()
    meters.update(loss=1, time=0.25)
    meters.update(loss=2, time=0.75)
    assert str(meters) == "loss: 1.5000 (1.5000)  time: 0.5000 (0.5000)"
