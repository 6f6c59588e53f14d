"""The training loop on a tiny network and random data, in one process."""

import json
import math
import shutil

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fcos_core.engine.step import TrainingStep
from fcos_core.engine.trainer import TrainingOptions, do_train
from fcos_core.errors import InputError
from fcos_core.solver import WarmupMultiStepLR
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList
from fcos_core.utils.meters import MetricLogger, SmoothedValue
from fcos_core.utils.metrics_file import MetricsWriter, read_metrics
from fcos_core.weights.checkpointer import DetectronCheckpointer


class Losses(nn.Module):
    """Linear model whose loss on an image is the square of its output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)

    def forward(self, images, targets):
        value = self.linear(images.tensors.mean(dim=(2, 3))).square().mean()
        return {"loss_cls": value, "loss_reg": 0.5 * value}


class Loader:
    """Loader whose batches depend on the iteration only; `poison` has a NaN image, `broken` cannot be read."""

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


def run(folder, stop, period=100, model=None, options=None, **faults):
    model = model or Losses()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = WarmupMultiStepLR(optimizer, (4,), warmup_iters=3, warmup_method="constant")
    others = {"ema": options.average} if options and options.average else {}
    checkpointer = DetectronCheckpointer(None, model, optimizer, scheduler, str(folder), others=others)
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
        options,
    )
    return model


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = run(tmp_path / "whole", stop=7)
    run(tmp_path / "parts", stop=3)
    parts = run(tmp_path / "parts", stop=7)
    assert torch.equal(whole.linear.weight, parts.linear.weight)
    assert torch.equal(whole.linear.bias, parts.linear.bias)


class Noisy(Losses):
    """Model with trained BatchNorm statistics and random noise."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images, targets):
        noise = torch.randn(())
        return super().forward(ImageList(self.norm(images.tensors) + noise, images.image_sizes), targets)


def averaged(model):
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    return TrainingOptions(average=average, log_period=1)


def test_noise_statistics_and_averages_resume_exactly(tmp_path):
    models = [Noisy() for _ in range(3)]
    options = [averaged(model) for model in models]
    run(tmp_path / "whole", stop=7, model=models[0], options=options[0])
    # The unreadable image ends the run within an iteration, whose state must not be saved.
    with pytest.raises(InputError):
        run(tmp_path / "parts", stop=7, broken=4, model=models[1], options=options[1])
    torch.manual_seed(77)
    run(tmp_path / "parts", stop=7, model=models[2], options=options[2])
    for whole, parts in ((models[0], models[2]), (options[0].average, options[2].average)):
        states = whole.state_dict(), parts.state_dict()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert [row["iteration"] for row in rows[1]] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("period", [3, 4])
def test_the_medians_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path, period):
    options = TrainingOptions(log_period=period)
    run(tmp_path / "whole", stop=8, options=options)
    with pytest.raises(InputError):
        run(tmp_path / "parts", stop=8, broken=6, options=options)
    run(tmp_path / "parts", stop=8, options=options)
    rows = [
        [{key: row[key] for key in row if key.startswith(("iteration", "loss", "lr"))} for row in read_metrics(path)]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "parts" / "metrics.jsonl")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 2 + (period == 3)


def test_a_value_that_is_no_longer_measured_is_no_longer_written(tmp_path):
    former = MetricLogger(window_size=3)
    former.update(loss=2.0, grad_norm=9.0)
    resumed = MetricLogger(3, former.recent())
    resumed.update(loss=4.0)
    assert resumed.medians() == {"loss": 3.0} and str(resumed) == "loss: 3.0000 (4.0000)"


def test_average_of_weights_is_the_exponential_one(tmp_path):
    model = Losses()
    options = averaged(model)
    run(tmp_path, stop=3, period=1, model=model, options=options)
    states = [torch.load(tmp_path / f"model_{i:07d}.pth", weights_only=True)["model"] for i in (1, 2, 3)]
    first, second, third = (state["linear.weight"] for state in states)
    # The average starts as the weights of the first iteration; the decay is 0.5.
    torch.testing.assert_close(options.average.module.linear.weight, 0.25 * first + 0.25 * second + 0.5 * third)


def test_the_norm_of_a_step_that_is_left_out_is_not_counted(tmp_path):
    model = Losses()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # The first loss times the scale is beyond float32.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-100)
    nn.init.constant_(model.linear.bias, 10.0)
    options = TrainingOptions(
        log_period=1, step=TrainingStep(model, optimizer, "cpu", scaler=scaler, clip_gradient_norm=1.0)
    )
    run(tmp_path, stop=3, model=model, options=options)
    first, second, third = read_metrics(tmp_path / "metrics.jsonl")
    assert "grad_norm" not in first
    assert 1 < second["grad_norm"] < 1000 and 1 < third["grad_norm"] < 1000


class Failing(Noisy):
    """Model that raises within iteration 4, after its BatchNorm has seen the batch."""

    calls = 0

    def forward(self, images, targets):
        losses = super().forward(images, targets)
        self.calls += 1
        if self.calls == 4:
            raise RuntimeError("a bug")
        return losses


def test_an_error_in_an_iteration_saves_the_one_before_it(tmp_path, caplog):
    run(tmp_path / "before", stop=3, model=Noisy())
    with pytest.raises(RuntimeError, match="a bug"):
        run(tmp_path / "failed", stop=9, model=Failing())
    saved, expected = (
        torch.load(tmp_path / name, weights_only=True)
        for name in ("failed/model_0000003.pth", "before/model_final.pth")
    )
    assert saved["iteration"] == 3 and saved["scheduler"]["last_epoch"] == expected["scheduler"]["last_epoch"]
    assert all(torch.equal(saved["model"][key], value) for key, value in expected["model"].items())
    assert "process 0 in iteration 4, forward; iteration 3 is saved" in caplog.text


def test_an_iteration_half_done_is_never_saved(tmp_path, monkeypatch, caplog):
    def fail(self, *_):
        self.param_groups[0]["params"][0].data.zero_()
        raise RuntimeError("in the middle of the step")

    monkeypatch.setattr(torch.optim.SGD, "step", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        run(tmp_path, stop=9)
    assert not list(tmp_path.glob("*.pth"))


def test_evaluation_comes_by_period_and_at_the_end(tmp_path):
    calls = []

    def evaluate(finished):
        calls.append(finished)
        return {"set/AP": 0.25}

    options = TrainingOptions(evaluate=evaluate, eval_period=2)
    run(tmp_path, stop=5, options=options)
    assert calls == [False, False, True]
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "set/AP" in row]
    assert rows == [{"iteration": iteration, "set/AP": 0.25} for iteration in (2, 4, 5)]


def test_an_evaluation_that_a_resumed_run_repeats_has_one_line(tmp_path):
    options = TrainingOptions(evaluate=lambda finished: {"set/AP": 0.25}, eval_period=2, log_period=2)
    with pytest.raises(InputError):  # the third iteration follows the evaluation and is never finished
        run(tmp_path, stop=4, broken=3, options=options)
    run(tmp_path, stop=4, options=options)
    rows = [(row["iteration"], "set/AP" in row) for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert rows == [(2, False), (2, True), (4, False), (4, True)]


@pytest.mark.parametrize("fault", ["deleted", "replaced", "metrics"])
def test_files_that_go_during_the_run_are_named_and_the_state_is_saved(tmp_path, caplog, fault):
    folder = tmp_path / "out"

    def spoil():
        if fault == "metrics":
            (folder / "metrics.jsonl").unlink()
            (folder / "metrics.jsonl").mkdir()
        else:
            shutil.move(folder, tmp_path / "former")
        if fault == "replaced":
            folder.mkdir()

    class Spoiling(Loader):
        def __iter__(self):
            for batch in super().__iter__():
                if batch[2][0] == 3:
                    spoil()
                yield batch

    model = Losses()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpointer = DetectronCheckpointer(None, model, optimizer, None, str(folder))
    scheduler = WarmupMultiStepLR(optimizer, ())
    words = "metrics.jsonl' cannot be written" if fault == "metrics" else "out' was deleted, moved or replaced"
    with pytest.raises(InputError, match=words):
        arguments = {"iteration": 0}
        options = TrainingOptions(log_period=1)
        do_train(model, Spoiling(0, 9), optimizer, scheduler, checkpointer, "cpu", 9, arguments, options)
    assert torch.load(folder / "model_0000003.pth", weights_only=True)["iteration"] == 3
    assert "iteration 3 is saved" in caplog.text


def test_metrics_that_cannot_be_written_are_named_before_training(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(InputError, match=r"tensorboard' cannot be written"):
        run(tmp_path, stop=2)


@pytest.mark.parametrize("line", ["12", "null", "[]", '{"loss": 1}', '{"iteration": "x"}', "9" * 5000, "[" * 99999])
def test_lines_that_are_no_metrics_are_skipped(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{line}\n{{"iteration": 1}}\n')
    assert read_metrics(path) == [{"iteration": 1}]


def test_metrics_of_iterations_that_are_trained_again_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 20, "loss": 2.0}\n{"iteration": 40, "loss": 1.0}\n{"iteration": 6')
    writer = MetricsWriter(tmp_path, iteration=30)
    writer.write(40, {"loss": 0.5})
    writer.close()
    assert read_metrics(path) == [{"iteration": 20, "loss": 2.0}, {"iteration": 40, "loss": 0.5}]


def test_tensorboard_gets_every_number(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, stop=4, options=TrainingOptions(log_period=2))
    curves = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    for name in set(rows[0]) - {"iteration"}:
        assert [(event.step, event.value) for event in curves.Scalars(name)] == [
            (row["iteration"], pytest.approx(row[name], rel=1e-6)) for row in rows
        ]


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
