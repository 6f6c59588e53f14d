"""Backbones, their registry, and the settings that they refuse."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fcos_core
from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.layers.sync_batch_norm import SyncBatchNorm
from fcos_core.modeling.backbone import build_backbone
from fcos_core.modeling.backbone.hrnet import HighResolutionNet
from fcos_core.modeling.backbone.resnet import ResNet
from fcos_core.modeling.detector import build_detection_model
from fcos_core.modeling.registry import BACKBONES, Registry

TINY = {"width": 4, "num_modules": (1, 1, 2, 1), "num_blocks": (1, 1, 1, 1), "stem_channels": 8, "stage1_channels": 4}


def config(*opts):
    node = cfg.clone()
    node.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "HRNET", "MODEL.HRNET.WIDTH", 4, "MODEL.DEVICE", "cpu"])
    node.merge_from_list(["MODEL.HRNET.NUM_BLOCKS", (1, 1, 1, 1), "MODEL.HRNET.NUM_MODULES", (1, 1, 1, 1)])
    node.merge_from_list(["MODEL.HRNET.FPN.OUT_CHANNEL", 64, "MODEL.FCOS.NUM_CONVS", 1, *opts])
    return node


def test_features_have_the_published_strides_and_channels():
    body = HighResolutionNet(**TINY)
    features = body(torch.zeros(2, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [(2, 4, 16, 24), (2, 8, 8, 12), (2, 16, 4, 6), (2, 32, 2, 3)]
    assert (body.out_channels, body.strides) == ((4, 8, 16, 32), (4, 8, 16, 32))


@pytest.mark.parametrize(
    ("opts", "strides"),
    [
        ([], [8, 16, 32, 64, 128]),
        (
            ["MODEL.HRNET.FPN.CONV_STRIDE", 1, "MODEL.FCOS.FPN_STRIDES", [4, 8, 16, 32, 64, 128]],
            [4, 8, 16, 32, 64, 128],
        ),
        (["MODEL.HRNET.NUM_BRANCHES", (1, 2, 3, 3)], [8, 16, 32, 64, 128]),
    ],
    ids=["5l", "6l", "three branches"],
)
def test_levels_have_the_sizes_that_their_strides_give(opts, strides):
    backbone = build_backbone(config(*opts))
    levels = backbone(torch.zeros(1, 3, 128, 256))
    assert [128 // level.shape[-2] for level in levels] == strides == list(backbone.strides)
    assert [256 // level.shape[-1] for level in levels] == strides
    assert {level.shape[1] for level in levels} == {backbone.out_channels} == {64}


def test_width_may_come_from_the_name():
    node = cfg.clone()
    node.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "HRNET-W48"])
    with torch.device("meta"):
        assert build_backbone(node).body.out_channels == (48, 96, 192, 384)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.BACKBONE.CONV_BODY", "HRNET-W18"], "WIDTH is 4"),
        (["MODEL.HRNET.NUM_MODULES", (1, 1, 1)], "four positive integers"),
        (["MODEL.HRNET.NUM_BLOCKS", (1, 1, 1, 0)], "four positive integers"),
        (["MODEL.HRNET.NUM_BRANCHES", (1, 3, 4, 4)], "grow by at most 1"),
        (["MODEL.HRNET.FPN.TYPE", "PANet"], "FPN.TYPE is 'PANet': write one of HRFPN"),
    ],
)
def test_contradictory_settings_are_refused(opts, message):
    with torch.device("meta"), pytest.raises(InputError, match=message):
        build_detection_model(config(*opts))


@pytest.mark.parametrize(
    ("opts", "trains", "kind"),
    [
        ([], False, nn.BatchNorm2d),
        (["MODEL.HRNET.TRAIN_BN", True], True, nn.BatchNorm2d),
        (["MODEL.SYNCBN", True, "MODEL.DEVICE", "cpu"], True, SyncBatchNorm),
        (["MODEL.SYNCBN", True, "MODEL.DEVICE", "cuda"], True, nn.SyncBatchNorm),
    ],
    ids=["fixed", "trained", "sync on CPU", "sync on GPU"],
)
def test_batch_norm_modes(opts, trains, kind):
    model = build_detection_model(config(*opts)).train()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(type(norm) is kind and norm.training is trains for norm in norms)
    assert all(norm.weight.requires_grad for norm in norms)
    assert not any(norm.training for norm in (model.eval(), norms)[1])


def test_freeze_at_freezes_the_first_parts_of_a_resnet():
    frozen = {n.split(".")[0] for n, p in ResNet(50, freeze_at=2).named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "layer1"}
    for freeze_at in (0, -1):
        assert all(p.requires_grad for p in ResNet(50, freeze_at=freeze_at).parameters())


@pytest.mark.parametrize("size", [(32, 512), (512, 32), (32, 32)])
def test_detector_accepts_thin_images(size):
    model = build_detection_model(config()).eval()
    assert len(model([torch.zeros(3, *size)])) == 1


def test_images_of_any_size_are_padded_to_a_size_that_the_network_accepts():
    model = build_detection_model(config()).eval()
    detections = model([torch.zeros(3, 70, 45), torch.zeros(3, 33, 100)])
    assert [d.size for d in detections] == [(45, 70), (100, 33)]


def test_training_needs_targets():
    with pytest.raises(ValueError, match="needs targets"):
        build_detection_model(config()).train()(torch.zeros(1, 3, 64, 64))


def test_registry_refuses_a_second_builder_of_one_name():
    registry = Registry("KEY")
    registry.register("a")(int)
    with pytest.raises(ValueError, match="twice"):
        registry.register("a")(float)
    assert "HRNET-W32" in BACKBONES


def test_registry_takes_a_builder_as_a_decorator_and_at_once():
    registry = Registry("KEY")
    assert registry.register("a", int) is int
    registry.register("b", "c", float)
    registry.register(module_name="d", module=str)
    registry.register("e", None)(bytes)
    assert registry == {"a": int, "b": float, "c": float, "d": str, "e": bytes}
    assert "a" in registry and registry["a"] is int and registry.get("z") is None
    assert registry.build("a", 3) == 3
    assert Registry({"a": int}) == {"a": int} and Registry() == {}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("taken", float), ValueError),
        (("new", "taken", float), ValueError),
        (("new", "new", float), ValueError),
        (("new", 3), TypeError),
        ((int,), TypeError),
        ((3, int), TypeError),
    ],
)
def test_registry_refuses_what_it_cannot_build(words, error):
    registry = Registry("KEY")
    registry.register("taken", int)
    with pytest.raises(error):
        registry.register(*words)
    assert registry == {"taken": int}


def test_names_of_an_empty_registry_are_unknown():
    with pytest.raises(InputError, match="KEY 'a' is unknown; no name is registered"):
        Registry("KEY").build("a", None)


class Published(torch.nn.Conv2d):
    """A backbone as published code has it: five levels, and no attribute but the number of channels."""

    def forward(self, x):
        levels = [torch.nn.functional.avg_pool2d(super().forward(x), 8)]
        for _ in range(4):
            levels.append(torch.nn.functional.max_pool2d(levels[-1], 1, 2))
        return levels


def test_builders_of_published_code_need_no_strides(monkeypatch):
    node = cfg.clone()
    node.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.CONV_BODY", "OWN", "MODEL.FCOS.NUM_CONVS", 1])
    monkeypatch.setitem(BACKBONES, "OWN", lambda cfg: Published(3, 32, 1))
    (detections,) = build_detection_model(node).eval()(torch.zeros(1, 3, 128, 128))
    assert detections.size == (128, 128)
    for builder in (lambda cfg: None, lambda cfg: torch.nn.Identity()):
        monkeypatch.setitem(BACKBONES, "OWN", builder)
        with pytest.raises(InputError, match="'OWN' must return a module with the attribute out_channels"):
            build_detection_model(node)


def test_trained_batch_norms_need_two_values():
    body = HighResolutionNet(
        4, (1, 1, 1, 1), num_blocks=(1, 1, 1, 1), stem_channels=8, stage1_channels=4, train_norm=True
    )
    with pytest.raises(InputError, match="One image of 32x32 pixels is too small to train BatchNorms"):
        body(torch.zeros(1, 3, 32, 32))
    # Two images, a larger image, or norms that are not trained have or need no second value.
    for shape in ((2, 3, 32, 32), (1, 3, 32, 64)):
        assert body(torch.zeros(shape))[3].shape[-2] == 1
    assert body.eval()(torch.zeros(1, 3, 32, 32))[3].shape[-2:] == (1, 1)


def test_fixed_batch_norms_are_fixed_from_the_start():
    body = HighResolutionNet(4, (1, 1, 1, 1), num_blocks=(1, 1, 1, 1), stem_channels=8, stage1_channels=4)
    assert body.training and not body.bn1.training
    assert body(torch.zeros(1, 3, 32, 32))[3].shape[-2:] == (1, 1)


def test_registry_holds_only_names_that_can_be_built():
    node = cfg.clone()
    node.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "MNV2-FPN-RETINANET"])
    with pytest.raises(InputError, match=r"MobileNetV2 backbone .* is not built yet\. Choose one of .*HRNET-W18"):
        build_backbone(node)
    assert "MNV2-FPN-RETINANET" not in BACKBONES


NEW_BACKBONE = """
from torch import nn

from fcos_core.modeling.backbone.build import body_with_neck, num_levels
from fcos_core.modeling.neck.fpn import FPN
from fcos_core.modeling.registry import BACKBONES


class Plain(nn.ModuleList):
    out_channels = (4, 8, 16, 32)

    def forward(self, x):
        return [x := conv(x) for conv in self]


@BACKBONES.register("PLAIN-FPN")
def build_plain_fpn(cfg):
    channels, strides = (3, *Plain.out_channels), (4, 2, 2, 2)
    body = Plain([nn.Conv2d(channels[i], channels[i + 1], 3, strides[i], 1) for i in range(4)])
    return body_with_neck(body, FPN(body.out_channels, 64, num_levels(cfg)))
"""
DETECT = """
import sys
import torch
from fcos_core.config import cfg
from fcos_core.modeling.detector import build_detection_model

cfg.merge_from_file(sys.argv[1])
(detections,) = build_detection_model(cfg).eval()(torch.zeros(1, 3, 64, 96))
print(cfg.MODEL.BACKBONE.CONV_BODY, detections.size)
"""


def test_new_backbone_needs_one_file_and_one_yaml(tmp_path):
    package = tmp_path / "fcos_core"
    shutil.copytree(Path(fcos_core.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (package / "modeling/backbone/plain.py").write_text(NEW_BACKBONE)
    (tmp_path / "plain.yaml").write_text("MODEL:\n  DEVICE: cpu\n  BACKBONE:\n    CONV_BODY: PLAIN-FPN\n")
    # Another process, because this process has already imported the backbones and registered the operators.
    found = subprocess.run(
        [sys.executable, "-c", DETECT, "plain.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == "PLAIN-FPN (96, 64)\n"
