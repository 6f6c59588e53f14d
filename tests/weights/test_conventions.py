"""Conventions of published detectors: the table, the YAML files in configs/zoo, and the check of a config."""

import logging
from pathlib import Path

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.weights.checkpoint_meta import CheckpointMeta
from fcos_core.weights.conventions import (
    CONVENTION_DEFAULTS,
    CONVENTIONS,
    IMAGENET_HRNET,
    IMAGENET_RESNET,
    check_conventions,
    check_own_conventions,
)
from fcos_core.weights.frameworks import Imported
from fcos_core.weights.importing import conventions_of
from fcos_core.weights.zoo import ZOO, published_conventions

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DETECTORS = [name for name in CONVENTIONS if name not in (IMAGENET_RESNET, IMAGENET_HRNET)]
logger = logging.getLogger("conventions-test")


def config_of(*options, file=None):
    config = cfg.clone()
    if file:
        config.merge_from_file(str(file))
    config.merge_from_list(options)
    return config


def warnings_of(config, name, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger=logger.name):
        check_conventions(config, name, "w.pth", logger)
    return [record.getMessage() for record in caplog.records]


def test_own_conventions_are_the_defaults(caplog, monkeypatch):
    monkeypatch.setitem(CONVENTIONS, "own", {})
    assert warnings_of(config_of(), "own", caplog) == []


def test_every_yaml_of_the_zoo_sets_the_conventions_of_its_weights(caplog):
    files = {path.stem: path for path in (CONFIGS / "zoo").glob("*.yaml")}
    assert sorted(files) == sorted(DETECTORS)
    for name, file in files.items():
        config = config_of(file=file)
        assert warnings_of(config, name, caplog) == [], name
        assert ZOO[config.MODEL.WEIGHT.removeprefix("zoo://")].conventions == name


def test_every_imagenet_yaml_sets_the_input_of_its_weights(caplog):
    files = list((CONFIGS / "fcos").glob(f"{IMAGENET_HRNET}.yaml"))
    assert len(files) >= 3
    for file in files:
        config = config_of(file=file)
        assert warnings_of(config, IMAGENET_HRNET, caplog) == [], file
        assert published_conventions(config.MODEL.WEIGHT) == IMAGENET_HRNET


@pytest.mark.parametrize("name", DETECTORS)
def test_one_warning_names_the_yaml_and_all_keys_that_differ(name, caplog):
    differing = {key: value for key, value in CONVENTIONS[name].items() if value != CONVENTION_DEFAULTS[key]}
    assert differing
    (warning,) = warnings_of(config_of(), name, caplog)
    assert "'w.pth' was trained under" in warning and f"use configs/zoo/{name}.yaml, or set " in warning
    assert all(f"{key} " in warning for key in differing)
    # The words are those of a command line.
    keys_and_values = [word for key, value in differing.items() for word in (key, value)]
    assert warnings_of(config_of(*keys_and_values), name, caplog) == []


def test_an_imagenet_resnet_is_refused_under_caffes_conventions(caplog):
    fitting = [word for pair in CONVENTIONS[IMAGENET_RESNET].items() for word in pair]
    assert warnings_of(config_of(*fitting), IMAGENET_RESNET, caplog) == []
    with pytest.raises(InputError, match=r"Set INPUT\.TO_BGR255 False, .*, MODEL\.RESNETS\.STRIDE_IN_1X1 False\."):
        check_conventions(config_of(), IMAGENET_RESNET, "w.pth", logger)
    for key in ("INPUT.TO_BGR255", "MODEL.RESNETS.STRIDE_IN_1X1"):
        with pytest.raises(InputError, match=rf"'w\.pth' is a ResNet of torchvision or timm.*Set {key} False\.$"):
            check_conventions(config_of(*fitting, key, True), IMAGENET_RESNET, "w.pth", logger)
    (warning,) = warnings_of(config_of(*fitting, "INPUT.PIXEL_STD", [1, 1, 1]), IMAGENET_RESNET, caplog)
    assert warning.endswith(': set INPUT.PIXEL_STD "(0.229, 0.224, 0.225)".')


def test_a_run_s_own_file_is_compared_with_its_own_config(caplog):
    learnt = ("MODEL.FCOS.NORM_REG_TARGETS", True, "INPUT.PIXEL_STD", "(57.0, 57.0, 57.0)")
    text = config_of(*learnt, "MODEL.FCOS.NMS_TH", 0.5).dump()
    check_own_conventions(config_of(*learnt), text, "model_final.pth", logger)
    # A file of an earlier version has no such keys, and one of another program has any text.
    for other in ("MODEL: {FCOS: {NUM_CLASSES: 4}}", "[1, 2", "text", "MODEL: {FCOS: {PIXELS: [1]}, RESNETS: 3}"):
        caplog.clear()
        check_own_conventions(config_of(), other, "model_final.pth", logger)
        assert len(caplog.records) == ("PIXELS" in other)
    caplog.clear()
    check_own_conventions(config_of(), text, "model_final.pth", logger)
    (record,) = caplog.records
    assert record.getMessage().endswith(
        'of its training: set INPUT.PIXEL_STD "(57.0, 57.0, 57.0)", MODEL.FCOS.NORM_REG_TARGETS True.'
    )


@pytest.mark.parametrize(
    ("source", "meta", "imported", "name"),
    [
        ("zoo://fcos_imprv_R_50_FPN_1x", {}, None, "fcos_imprv_R_50_FPN_1x"),
        ("hf://tianzhi/FCOS/FCOS_R_50_FPN_1x.pth", {}, None, "fcos_R_50_FPN_1x"),
        ("https://h/x/FCOS_bn_bs16_MNV2_FPN_1x.pth?download=true", {}, None, "fcos_bn_bs16_MNV2_FPN_1x"),
        ("downloads/hrnetv2_w40-ed0b031c.pth", {}, None, IMAGENET_HRNET),
        ("hf://timm/hrnet_w30.ms_in1k", {}, None, IMAGENET_HRNET),
        ("w.pth", {}, "mmdet_fcos_r50_caffe", "mmdet_fcos_r50_caffe"),
        ("w.pth", {"conventions": "mmdet_fcos_r50_caffe"}, None, "mmdet_fcos_r50_caffe"),
        # A run's own file, whose config came from wherever.
        ("FCOS_R_50_FPN_1x.pth", {"config": "MODEL: {}"}, None, ""),
        ("hrnetv2_w18_imagenet_pretrained.pth", {}, None, ""),
        ("model.safetensors", {}, None, ""),
        ("w.pth", {"conventions": "of a later version"}, None, ""),
    ],
)
def test_what_a_file_was_trained_under(source, meta, imported, name):
    imported = imported and Imported("x", imported, {"a": torch.ones(1)})
    assert conventions_of(source, CheckpointMeta(**meta), imported) == name
