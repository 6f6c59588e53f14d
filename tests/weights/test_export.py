"""tools/convert_weights.py and tools/strip_checkpoint.py: what they write loads everywhere."""

import importlib
import logging
import re
import sys

import pytest
import torch
from test_frameworks import MMDET_RESNET, RESNET

from fcos_core.engine.test import load_detector
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.predictor import Predictor
from fcos_core.weights.checkpoint_meta import CheckpointMeta, read_meta
from fcos_core.weights.checkpointer import DetectronCheckpointer
from fcos_core.weights.export import convert_weights
from fcos_core.weights.frameworks import import_state
from fcos_core.weights.state_dict_file import load_state_dict_file

ENDINGS = ("pth", "safetensors")


def run(tool, *words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{tool}.py", *map(str, words)])
    importlib.import_module(tool).main()


@pytest.fixture
def checkpoint(small_config, tmp_path):
    """A training state of the small network, with an average that differs from its weights."""
    torch.manual_seed(0)
    model = build_detection_model(small_config)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    average = torch.optim.swa_utils.AveragedModel(model)
    for parameter in average.parameters():
        parameter.data += 1
    checkpointer = DetectronCheckpointer(
        small_config, model, optimizer, save_dir=str(tmp_path), others={"ema": average}
    )
    checkpointer.categories = [f"class {number}" for number in range(small_config.MODEL.FCOS.NUM_CLASSES - 1)]
    checkpointer.save("model_final", iteration=7)
    return tmp_path / "model_final.pth"


@pytest.mark.parametrize(("ending", "words"), [("pth", []), ("safetensors", ["--ema"])])
def test_a_stripped_checkpoint_predicts(checkpoint, ending, words, tmp_path, monkeypatch, capsys):
    out = tmp_path / f"small.{ending}"
    run("strip_checkpoint", checkpoint, out, *words, monkeypatch=monkeypatch)
    assert re.search(rf"Wrote \d+ tensors of {checkpoint} to {out}, [\d.]+ MiB", capsys.readouterr().out)
    content = torch.load(checkpoint, weights_only=True)["ema" if words else "model"]
    expected = {key.removeprefix("module."): value for key, value in content.items() if key != "n_averaged"}
    written = load_state_dict_file(str(out))
    assert written.keys() == expected.keys() and all(torch.equal(written[key], expected[key]) for key in expected)
    assert read_meta(str(out)) == read_meta(str(checkpoint))
    # The file brings the config and the names of the classes.
    predictor = Predictor(weights=out, device="cpu", threshold=0.0, compile=False)
    assert predictor.category_names[2] == "class 2"
    state = predictor._model.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stripped_file_is_smaller_and_is_no_state_to_resume(checkpoint, ending, tmp_path, monkeypatch):
    out = tmp_path / f"small.{ending}"
    run("strip_checkpoint", checkpoint, out, monkeypatch=monkeypatch)
    assert out.stat().st_size < checkpoint.stat().st_size / 1.5
    model = torch.nn.Linear(1, 1)
    model.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.ones(1)})
    path = tmp_path / f"linear.{ending}"
    torch.save({"model": model.state_dict(), "optimizer": {}, "note": "x"}, tmp_path / "linear_state.pth")
    run("strip_checkpoint", tmp_path / "linear_state.pth", path, monkeypatch=monkeypatch)
    fresh = torch.nn.Linear(1, 1)
    assert DetectronCheckpointer(None, fresh, torch.optim.SGD(fresh.parameters(), 0.1)).load(str(path)) == {}
    assert fresh.weight.item() == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_converted_file_has_own_names_and_remembers_its_conventions(ending, tmp_path, monkeypatch, capsys, caplog):
    source, out = tmp_path / "theirs.pth", tmp_path / f"ours.{ending}"
    torch.save({"meta": {"CLASSES": ("a", "b"), "epoch": 12}, "state_dict": MMDET_RESNET}, source)
    run("convert_weights", source, out, monkeypatch=monkeypatch)
    line = capsys.readouterr().out
    assert (
        f"{source} is mmdetection's FCOS with ResNet: wrote" in line and "the conventions mmdet_fcos_r50_caffe" in line
    )
    expected, written = import_state(MMDET_RESNET).state, load_state_dict_file(str(out))
    assert written.keys() == expected.keys() and all(torch.equal(written[key], expected[key]) for key in expected)
    assert read_meta(str(out)) == CheckpointMeta(categories=["a", "b"], conventions="mmdet_fcos_r50_caffe")
    assert import_state(written) is None
    # What was converted once is not changed again.
    again = tmp_path / f"again.{ending}"
    convert_weights(str(out), str(again))
    assert read_meta(str(again)) == read_meta(str(out))
    assert all(torch.equal(value, expected[key]) for key, value in load_state_dict_file(str(again)).items())


@pytest.mark.parametrize(
    ("meta", "warned"),
    [({"config": "MODEL: {}"}, False), ({"conventions": "torchvision_fcos_resnet50_fpn"}, True)],
)
def test_a_converted_detector_warns_of_unfit_conventions(checkpoint, small_config, meta, warned, tmp_path, caplog):
    path = tmp_path / "w.pth"
    torch.save({"model": torch.load(checkpoint, weights_only=True)["model"], **meta}, path)
    config = small_config.clone()
    config.MODEL.WEIGHT = str(path)
    config.TEST.COMPILE = False
    with caplog.at_level(logging.WARNING):
        model = load_detector(config)
        DetectronCheckpointer(config, model).load_weights(str(path))
    yaml = "configs/zoo/torchvision_fcos_resnet50_fpn.yaml"
    assert sum(yaml in message for message in caplog.messages) == 2 * warned


@pytest.mark.parametrize("body", [RESNET, {"conv1.weight": torch.ones(2), "stage2.0.x": torch.ones(1)}])
def test_a_body_gets_its_prefix_and_loses_its_classifier(body, tmp_path):
    out = str(tmp_path / "out.safetensors")
    torch.save({**body, "fc.weight": torch.ones(2)}, tmp_path / "hrnetv2_w18-00eb2006.pth")
    convert_weights(str(tmp_path / "hrnetv2_w18-00eb2006.pth"), out)
    assert all(key.startswith("backbone.body.") for key in load_state_dict_file(out))
    assert read_meta(out).conventions == ("imagenet_resnet" if body is RESNET else "fcos_hrnet_w*_imagenet")


@pytest.mark.parametrize("tool", ["convert_weights", "strip_checkpoint"])
def test_nothing_is_overwritten(tool, tmp_path, monkeypatch):
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save(MMDET_RESNET, source)
    out.write_text("mine")
    with pytest.raises(InputError, match=r"out\.pth' exists: name a new file"):
        run(tool, source, out, monkeypatch=monkeypatch)
    assert out.read_text() == "mine"
    with pytest.raises(InputError, match=r"out\.onnx' must end in \.pth or \.safetensors"):
        run(tool, source, tmp_path / "out.onnx", monkeypatch=monkeypatch)
    with pytest.raises(InputError, match=r"no/out\.pth' cannot be written: .*no' is not a folder"):
        run(tool, source, tmp_path / "no" / "out.pth", monkeypatch=monkeypatch)


def test_weights_of_no_known_framework(tmp_path):
    torch.save({"roi_head.weight": torch.ones(1)}, tmp_path / "in.pth")
    with pytest.raises(InputError, match=r"is of no framework that is known here: its keys, such as roi_head\.weight"):
        convert_weights(str(tmp_path / "in.pth"), str(tmp_path / "out.pth"))


def test_no_average(tmp_path, monkeypatch):
    torch.save({"model": MMDET_RESNET}, tmp_path / "in.pth")
    with pytest.raises(InputError, match="holds no average of weights"):
        run("strip_checkpoint", tmp_path / "in.pth", tmp_path / "out.pth", "--ema", monkeypatch=monkeypatch)
