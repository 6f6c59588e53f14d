import copy
import logging
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from fcos_core.errors import InputError
from fcos_core.utils import files
from fcos_core.weights.checkpointer import DetectronCheckpointer


class Detector(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.rpn = nn.Module()
        self.rpn.head = nn.Conv2d(4, classes, 1)

    def forward(self, x):
        return self.rpn.head(self.backbone.body(x)).square().mean()


def make_run(save_dir="", seed=0, **kwargs):
    torch.manual_seed(seed)
    model = Detector()
    optimizer = torch.optim.SGD(
        [{"params": [p], "lr": 0.1 * (1 + i)} for i, p in enumerate(model.parameters())], lr=0.1, momentum=0.9
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    return DetectronCheckpointer(None, model, optimizer, scheduler, str(save_dir), **kwargs)


def train(run, first, last):
    losses = []
    for iteration in range(first, last):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(iteration))
        loss = run.model(x)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.scheduler.step()
        losses.append(loss.item())
    return losses


def weights(run):
    return {key: value.clone() for key, value in run.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_resumed_run_is_the_unbroken_run(tmp_path):
    unbroken = make_run()
    expected = train(unbroken, 0, 8)
    broken = make_run(tmp_path)
    train(broken, 0, 4)
    broken.save("model_0000004", iteration=4, rng=torch.get_rng_state())
    momentum = copy.deepcopy(broken.optimizer.state_dict())
    resumed = make_run(tmp_path, seed=9)
    extra = resumed.resume()
    assert extra["iteration"] == 4 and extra.keys() == {"iteration", "rng"}
    for index, state in momentum["state"].items():
        assert torch.equal(resumed.optimizer.state_dict()["state"][index]["momentum_buffer"], state["momentum_buffer"])
    assert train(resumed, 4, 8) == expected[4:]
    assert same(weights(resumed), weights(unbroken))
    assert resumed.optimizer.state_dict()["param_groups"] == unbroken.optimizer.state_dict()["param_groups"]


def test_nothing_to_resume(tmp_path):
    for run in (make_run(), make_run(tmp_path), make_run(tmp_path / "none")):
        assert not run.has_checkpoint() and run.get_checkpoint_file() == "" and run.resume() is None


def test_weights_are_loaded_alone_whatever_save_dir_has(tmp_path):
    source, other = make_run(seed=1), make_run(tmp_path / "run", seed=2)
    train(source, 0, 2)
    torch.save(
        {"model": source.model.state_dict(), "optimizer": source.optimizer.state_dict(), "iteration": 2},
        tmp_path / "w.pth",
    )
    other.save("model_final", iteration=9)
    run = make_run(tmp_path / "run", seed=3)
    run.load_weights(str(tmp_path / "w.pth"))
    assert same(weights(run), weights(source))
    assert run.optimizer.state_dict()["state"] == {} and run.scheduler.last_epoch == 0


def test_load_of_a_training_state_goes_on_from_it_as_published_scripts_expect(tmp_path):
    former = make_run(tmp_path / "former")
    train(former, 0, 2)
    former.save("model_0000002", iteration=2)
    path = str(tmp_path / "former" / "model_0000002.pth")
    for folder in ("", tmp_path / "empty"):
        run = make_run(folder, seed=3)
        assert run.load(path) == {"iteration": 2}
        assert same(weights(run), weights(former)) and run.scheduler.last_epoch == 2
        assert run.optimizer.state_dict()["state"].keys() == former.optimizer.state_dict()["state"].keys() != set()
    # Weights alone, as tools/remove_solver_states.py of published code leaves them, and a model of other classes.
    torch.save({"model": former.model.state_dict()}, tmp_path / "w.pth")
    other = make_run()
    other.model = Detector(classes=7)
    assert make_run().load(str(tmp_path / "w.pth")) == other.load(path) == {}
    assert other.optimizer.state_dict()["state"] == {}


def test_load_goes_on_from_the_last_checkpoint_as_published_scripts_expect(tmp_path):
    former = make_run(tmp_path)
    train(former, 0, 2)
    former.save("model_0000002", iteration=2)
    torch.save({"model": make_run(seed=5).model.state_dict()}, tmp_path / "w.pth")
    for arguments in ((str(tmp_path / "w.pth"),), ("",), ()):
        run = make_run(tmp_path, seed=3)
        assert run.load(*arguments) == {"iteration": 2}
        assert same(weights(run), weights(former)) and run.scheduler.last_epoch == 2
    # A script that tests has no optimizer, and wants neither its state nor that of the average.
    tester = make_run(tmp_path, seed=4)
    tester.optimizer = tester.scheduler = None
    assert tester.load("none.pth") == {"iteration": 2} and same(weights(tester), weights(former))


@pytest.mark.parametrize("arguments", [("",), (None,), ()])
def test_no_weights(caplog, tmp_path, arguments):
    run = make_run(tmp_path)
    before = weights(run)
    with caplog.at_level(logging.INFO):
        assert run.load(*arguments) == {}
    assert caplog.messages == ["No weights given: training starts from random initialization"]
    assert same(weights(run), before)


class RunConfig:
    """Stands for a config whose YAML text is known."""

    def dump(self):
        return "SEED: 7\n"


def test_a_checkpoint_describes_its_run_in_plain_types(tmp_path):
    run = make_run(tmp_path)
    run.cfg, run.categories = RunConfig(), ("cat", "dog")
    # A script may hand back the values of an older file.
    run.save("model_0000001", iteration=1, config="SEED: 1\n", categories=["old"])
    content = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    assert content["config"] == "SEED: 7\n" and content["categories"] == ["cat", "dog"]
    readers = [make_run(tmp_path), make_run(tmp_path), make_run()]
    assert readers[0].resume() == readers[1].load() == {"iteration": 1}
    assert readers[2].load(str(tmp_path / "model_0000001.pth")) == {"iteration": 1}
    for reader in readers:
        assert reader.loaded_config == "SEED: 7\n" and reader.loaded_categories == ["cat", "dog"]
    make_run(tmp_path).save("model_0000002", iteration=2)
    readers[2].load(str(tmp_path / "model_0000002.pth"))
    assert readers[2].loaded_config is None and readers[2].loaded_categories is None


@pytest.mark.parametrize(
    "foreign", [{"config": {"a": 1}}, {"categories": "cat"}, {"categories": [1]}, {"categories": []}]
)
def test_values_of_other_programs_are_no_description(tmp_path, foreign):
    torch.save({"model": make_run().model.state_dict(), **foreign}, tmp_path / "w.pth")
    run = make_run()
    run.load(str(tmp_path / "w.pth"))
    assert run.loaded_config is None and run.loaded_categories is None


def test_load_of_another_model_leaves_this_one(tmp_path):
    run = make_run()
    before = weights(run)
    state = {**weights(make_run(seed=1)), "backbone.body.0.weight": torch.zeros(9, 3, 3, 3)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth' is of another model"):
        run.load(str(tmp_path / "w.pth"))
    assert same(weights(run), before)


def test_load_with_another_number_of_classes(tmp_path, caplog):
    torch.save({"model": Detector(classes=80).state_dict()}, tmp_path / "w.pth")
    run = make_run()
    before = weights(run)
    run.load(str(tmp_path / "w.pth"))
    assert torch.equal(run.model.rpn.head.weight, before["rpn.head.weight"])
    assert not torch.equal(run.model.backbone.body[0].weight, before["backbone.body.0.weight"])
    assert "rpn.head.weight 80x4x1x1 -> 3x4x1x1" in caplog.text


def test_wrapped_model(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        run = make_run(tmp_path)
        run.model = nn.parallel.DistributedDataParallel(run.model)
        run.save("model_final")
        content = torch.load(tmp_path / "model_final.pth", weights_only=True)
        assert list(content["model"]) == list(Detector().state_dict())
        before = weights(run)
        nn.init.zeros_(run.model.module.rpn.head.weight)
        run.load(str(tmp_path / "model_final.pth"))
        assert same(weights(run), before)
        nn.init.zeros_(run.model.module.rpn.head.weight)
        assert run.resume() == {}
        assert same(weights(run), before)
    finally:
        dist.destroy_process_group()


def test_file_has_the_published_layout(tmp_path):
    make_run(tmp_path).save("model_0000010", iteration=10)
    content = torch.load(tmp_path / "model_0000010.pth", weights_only=True)
    assert content.keys() == {"model", "optimizer", "scheduler", "iteration"}
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "model_0000010.pth")
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000010.pth"]


def test_only_the_writing_process_writes_and_only_with_a_folder(tmp_path):
    make_run(tmp_path / "run", save_to_disk=False).save("model_final")
    assert not (tmp_path / "run").exists()
    make_run("").save(str(tmp_path / "model_final"))
    assert not (tmp_path / "model_final.pth").exists()


def test_state_for_diagnosis_is_not_resumed(tmp_path):
    run = make_run(tmp_path)
    run.save("failed_0000003", tag=False, iteration=3)
    assert (tmp_path / "failed_0000003.pth").exists() and not run.has_checkpoint()
    run.save("model_0000002", iteration=2)
    run.save("failed_0000004", tag=False, iteration=4)
    assert run.resume() == {"iteration": 2}


@pytest.mark.parametrize(
    "written", ["{dir}/model_a.pth\n", "model_a.pth", "/gone/run/model_a.pth", "runs/x/model_a.pth"]
)
def test_last_checkpoint_of_published_code_and_of_a_moved_folder(tmp_path, written):
    run = make_run(tmp_path / "run")
    run.save("model_a", iteration=5)
    (tmp_path / "run" / "last_checkpoint").write_text(written.format(dir=tmp_path / "run"))
    shutil.move(tmp_path / "run", tmp_path / "moved")
    run = make_run(tmp_path / "moved")
    assert run.get_checkpoint_file() == str(tmp_path / "moved" / "model_a.pth")
    assert run.resume() == {"iteration": 5}


def test_a_copied_folder_resumes_from_its_own_file(tmp_path):
    make_run(tmp_path / "run").save("model_a", iteration=5)
    (tmp_path / "run" / "last_checkpoint").write_text(str(tmp_path / "run" / "model_a.pth"))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert make_run(tmp_path / "copy").get_checkpoint_file() == str(tmp_path / "copy" / "model_a.pth")
    (tmp_path / "copy" / "model_a.pth").unlink()
    assert make_run(tmp_path / "copy").get_checkpoint_file() == str(tmp_path / "run" / "model_a.pth")


def test_resume_says_that_weight_is_not_read(tmp_path, caplog):
    make_run(tmp_path).save("model_a")
    with caplog.at_level(logging.INFO):
        make_run(tmp_path).resume()
    assert f"Resuming from {tmp_path}/model_a.pth: MODEL.WEIGHT is not read" in caplog.messages


def damage(path):
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def without(*names):
    def edit(path):
        content = torch.load(path, weights_only=True)
        torch.save({name: value for name, value in content.items() if name not in names}, path)

    return edit


def other_optimizer(path):
    content = torch.load(path, weights_only=True)
    content["optimizer"]["param_groups"].pop()
    torch.save(content, path)


def lacking_a_key(path):
    content = torch.load(path, weights_only=True)
    del content["model"]["rpn.head.bias"]
    torch.save(content, path)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (damage, r"Cannot resume. The file '.*model_a\.pth' is damaged"),
        (os.remove, r"The last checkpoint, '.*model_a\.pth', does not exist"),
        (without("optimizer"), r"'.*model_a\.pth' is not a training state, it lacks optimizer"),
        (without("optimizer", "scheduler"), "it lacks optimizer and scheduler"),
        (other_optimizer, r"the optimizer in '.*model_a\.pth' does not fit this run"),
        (lacking_a_key, r"the model in '.*model_a\.pth' does not fit this run \(.*rpn\.head\.bias"),
        (lambda path: torch.save([1], path), "is not a training state, it lacks model and optimizer and scheduler"),
    ],
)
def test_state_that_cannot_be_resumed(tmp_path, edit, sentence):
    make_run(tmp_path).save("model_a", iteration=1)
    edit(str(tmp_path / "model_a.pth"))
    with pytest.raises(InputError, match=rf"{sentence}.*write the name of an undamaged checkpoint .*last_checkpoint"):
        make_run(tmp_path).resume()


def test_empty_last_checkpoint(tmp_path):
    (tmp_path / "last_checkpoint").write_text("\n")
    with pytest.raises(InputError, match="last_checkpoint is empty: write the name"):
        make_run(tmp_path).resume()


def flip_a_bit(path):
    """Flip a bit of a tensor's data, whose checksum torch.load does not compare."""
    content = bytearray(Path(path).read_bytes())
    content[content.index(torch.load(path, weights_only=True)["model"]["rpn.head.bias"].numpy().tobytes())] ^= 1
    Path(path).write_bytes(content)


@pytest.mark.parametrize("spoil", [damage, os.remove, flip_a_bit, lambda path: Path(path).write_bytes(b"")])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, spoil, caplog):
    run = make_run(tmp_path)
    for iteration in (5, 10, 20, 30):
        run.save(f"model_{iteration:07d}", iteration=iteration)
    # The user went back to 20: later checkpoints must not be resumed.
    (tmp_path / "last_checkpoint").write_text("model_0000020.pth")
    spoil(str(tmp_path / "model_0000020.pth"))
    assert make_run(tmp_path).resume() == {"iteration": 10}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "model_0000020.pth" in warning and warning.endswith("model_0000010.pth")


@pytest.mark.parametrize("last", ["model_final.pth", ""])
def test_fall_back_from_a_checkpoint_without_a_number(tmp_path, last):
    run = make_run(tmp_path)
    for name, iteration in (("model_0000005", 5), ("model_0000010", 10), ("model_final", 12)):
        run.save(name, iteration=iteration)
    damage(tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text(last)
    assert make_run(tmp_path).resume() == {"iteration": 10}


def test_the_newest_checkpoints_are_kept(tmp_path):
    run = make_run(tmp_path, keep_last=2)
    run.save("model_0000040", tag=False, iteration=40)  # left from before the user went back to an earlier checkpoint
    run.save("model_best", tag=False, iteration=1)
    for iteration in (1, 2, 3, 4):
        run.save(f"model_{iteration:07d}", iteration=iteration)
    run.save("model_final", iteration=4)
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_0000003.pth", "model_0000004.pth", "model_0000040.pth", "model_best.pth", "model_final.pth"]


def test_other_parts_of_the_state(tmp_path, caplog):
    make_run(tmp_path).save("model_a", iteration=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    # A scaler that is switched on in the middle of a run has no state to resume.
    assert make_run(tmp_path, others={"scaler": scaler}).resume() == {"iteration": 1}
    assert "holds no state of the scaler, which begins anew" in caplog.text
    scaler.load_state_dict({**scaler.state_dict(), "scale": 4.0})
    make_run(tmp_path, others={"scaler": scaler}).save("model_b", iteration=2)
    other = torch.amp.GradScaler("cpu")
    assert make_run(tmp_path, others={"scaler": other}).resume() == {"iteration": 2}
    assert other.get_scale() == 4.0


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_interrupted_save_leaves_the_former_state(tmp_path, monkeypatch, step):
    run = make_run(tmp_path)
    run.save("model_a", iteration=1)
    former = weights(run)
    train(run, 0, 1)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, fail)
        with pytest.raises(KeyboardInterrupt):
            run.save("model_a", iteration=2)
        with pytest.raises(KeyboardInterrupt):
            run.save("model_b", iteration=3)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_a.pth"]
    resumed = make_run(tmp_path, seed=5)
    assert resumed.resume() == {"iteration": 1}
    assert same(weights(resumed), former)


def test_leftover_of_a_killed_save_does_no_harm(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "model_a.pth.tmp").write_text("half")
    run.save("model_a", iteration=1)
    assert make_run(tmp_path).resume() == {"iteration": 1}


def test_data_reaches_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (calls.append(os.path.basename(b)), replace(a, b)))
    make_run(tmp_path).save("model_a")
    assert calls == ["fsync", "model_a.pth", "fsync", "fsync", "last_checkpoint", "fsync"]


def test_full_disk(tmp_path):
    run = make_run(tmp_path)
    run.save("model_a", iteration=1)
    run.model.register_buffer("big", torch.zeros(100_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        with pytest.raises(InputError, match=r"model_b\.pth' could not be written: .*File too large.*OUTPUT_DIR"):
            run.save("model_b", iteration=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_a.pth"]
    assert make_run(tmp_path).resume() == {"iteration": 1}


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        make_run(tmp_path / "file" / "run").save("model_a")


@pytest.mark.parametrize("value", [np.float64(1.5), lambda: 0, pytest])
def test_what_could_not_be_read_back_is_not_written(tmp_path, value):
    run = make_run(tmp_path)
    run.save("model_a", iteration=1)
    with pytest.raises(InputError, match=r"model_b\.pth' was not written: it could not be read back"):
        run.save("model_b", best=value)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_a.pth"]
    assert run.resume() == {"iteration": 1}
