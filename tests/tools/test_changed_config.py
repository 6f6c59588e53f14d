"""A training that resumes with another config, in this process."""

import logging

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.engine.test import test_data_loaders as make_test_loaders
from fcos_core.engine.train import train
from fcos_core.errors import InputError
from fcos_core.utils.metrics_file import read_metrics


@pytest.fixture
def train_to(workspace):
    """Return a function that trains the tiny network to an iteration and returns the final checkpoint."""

    def run(last, *opts):
        config = cfg.clone()
        config.merge_from_file(str(workspace.folder / "tiny.yaml"))
        config.merge_from_list(["SOLVER.MAX_ITER", last, "SOLVER.LOG_PERIOD", 1, "SEED", 1, *opts])
        train(config)
        return torch.load(workspace.out / "model_final.pth", weights_only=True)

    return run


def test_the_new_values_hold_and_are_listed(train_to, caplog):
    train_to(2)
    with caplog.at_level(logging.INFO):
        state = train_to(
            *(3, "SOLVER.WEIGHT_DECAY", 0.25, "SOLVER.MOMENTUM", 0.5, "SOLVER.EMA_DECAY", 0.5),
            *("SOLVER.CLIP_GRADIENT_NORM", 1.0),
        )
    (block,) = [record.getMessage() for record in caplog.records if "The config has changed" in record.getMessage()]
    assert [line.split(":")[0].strip() for line in block.splitlines()[1:]] == [
        *("SOLVER.CLIP_GRADIENT_NORM", "SOLVER.EMA_DECAY", "SOLVER.MAX_ITER", "SOLVER.MOMENTUM", "SOLVER.WEIGHT_DECAY")
    ]
    assert "SOLVER.WEIGHT_DECAY: 0.0005 -> 0.25" in block
    groups = state["optimizer"]["param_groups"]
    assert {group["momentum"] for group in groups} == {0.5}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.25}
    # An average that begins now is the weights of its first iteration.
    assert all(torch.equal(state["ema"][f"module.{key}"], value) for key, value in state["model"].items())


def test_an_average_that_begins_when_nothing_is_left_to_train_is_the_weights(workspace, train_to):
    train_to(2)
    (workspace.out / "last_checkpoint").write_text("model_0000002.pth")
    (workspace.out / "model_final.pth").unlink()
    state = train_to(2, "SOLVER.EMA_DECAY", 0.5)
    assert all(torch.equal(state["ema"][f"module.{key}"], value) for key, value in state["model"].items())


def test_an_average_that_is_switched_off_is_left_out(train_to):
    train_to(2, "SOLVER.EMA_DECAY", 0.5)
    assert "ema" not in train_to(3)


def test_fewer_iterations_than_are_done(workspace, train_to):
    train_to(3)
    with pytest.raises(InputError, match=r"model_final\.pth' is of iteration 3, but SOLVER\.MAX_ITER is 2: raise it"):
        train_to(2)
    assert [row["iteration"] for row in read_metrics(workspace.out / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.HRNET.WIDTH", 6], "the model in .* does not fit this run"),
        (["MODEL.FCOS.NUM_CONVS", 2], "the model in .* does not fit this run"),
    ],
)
def test_another_model(train_to, caplog, opts, words):
    train_to(1)
    with pytest.raises(InputError, match=words):
        train_to(2, *opts)
    assert f"  {opts[0]}: " in caplog.text  # the changes say which key the model is another one by


@pytest.mark.parametrize("iteration", [None, "2", 2.5, -3])
def test_a_state_without_a_usable_iteration(workspace, train_to, iteration):
    state = {**train_to(1), "iteration": iteration}
    if iteration is None:
        del state["iteration"]
    torch.save(state, workspace.out / "model_final.pth")
    with pytest.raises(InputError, match=r"does not say how many iterations are done \(\"iteration\" is .*\): name"):
        train_to(2)
    assert [row["iteration"] for row in read_metrics(workspace.out / "metrics.jsonl")] == [1]


def test_odd_values_of_a_checkpoint_are_left_out(workspace, train_to):
    torch.save({**train_to(1), "best": "x", "recent_values": "abc"}, workspace.out / "model_final.pth")
    assert "best" not in train_to(2)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "environment.txt", "log.txt"])
def test_files_that_cannot_be_written_to_are_named_before_training(workspace, train_to, name):
    (workspace.out / name).mkdir(parents=True)
    with pytest.raises(InputError, match=rf"{name}' in OUTPUT_DIR cannot be written to \(Is a directory\)"):
        train_to(1)
    assert not list(workspace.out.glob("*.pth"))


@pytest.mark.parametrize("name", ["inference", "inference/tiny", "inference/tiny/bbox.json"])
def test_results_that_could_not_be_written_are_named_before_the_test(workspace, name):
    config = cfg.clone()
    config.merge_from_file(str(workspace.folder / "tiny.yaml"))
    path = workspace.out / name
    path.parent.mkdir(parents=True)
    path.mkdir() if name.endswith("json") else path.touch()
    with pytest.raises(InputError, match=r"OUTPUT_DIR.*cannot be written to \((Is|Not) a directory|File exists"):
        make_test_loaders(config)
