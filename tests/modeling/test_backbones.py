"""Backbones, their registry, and the settings that they refuse."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import fcos_core
from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.layers.frozen_batch_norm import FrozenBatchNorm2d
from fcos_core.layers.sync_batch_norm import SyncBatchNorm
from fcos_core.modeling.backbone import build_backbone
from fcos_core.modeling.backbone.hrnet import HighResolutionNet
from fcos_core.modeling.backbone.mobilenet import MobileNetV2
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


def test_mobilenet_gives_the_last_map_of_each_stride():
    body = MobileNetV2().eval()
    shapes = [tuple(feature.shape) for feature in body(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(1, 24, 16, 24), (1, 32, 8, 12), (1, 96, 4, 6), (1, 320, 2, 3)]
    # Sandler et al. 2018, table 2: 18 features at stride 32, and the third block of a row has a shortcut.
    assert len(body.features) == 18
    shortcuts = [number for number, block in enumerate(body.features) if getattr(block, "has_shortcut", False)]
    assert shortcuts == [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]
    assert (body.out_channels, body.strides) == ((24, 32, 96, 320), (4, 8, 16, 32))


def test_mobilenet_computes_what_torchvision_computes():
    torch.manual_seed(0)
    body, reference = MobileNetV2().double(), torchvision.models.mobilenet_v2().features[:18].double()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 1.5)
    # The names differ, the order does not.
    body.load_state_dict(dict(zip(body.state_dict(), reference.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for mode in (False, True):
        outputs = [images]
        for feature in reference.train(mode):
            outputs.append(feature(outputs[-1]))
        expected = [outputs[number + 1] for number in (3, 6, 13, 17)]
        torch.testing.assert_close(body.train(mode)(images), expected, rtol=1e-9, atol=1e-9)


def test_mobilenet_trains_its_norms_on_own_batches_and_freezes_its_first_features():
    body = MobileNetV2(freeze_at=3).train()
    body(torch.randn(2, 3, 32, 32))
    frozen = {n.split(".")[1] for n, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {"0", "1", "2"}
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 1 and norm.running_mean.any() for norm in norms)
    with pytest.raises(InputError, match="One image of 32x32 pixels is too small to train BatchNorms"):
        body(torch.zeros(1, 3, 32, 32))
    assert len(body.eval()(torch.zeros(1, 3, 32, 32))) == 4


@pytest.mark.parametrize(("device", "kind"), [("cpu", SyncBatchNorm), ("cuda", nn.SyncBatchNorm)])
@pytest.mark.parametrize("body", ["MNV2-FPN-RETINANET", "HRNET"])
def test_use_syncbn_synchronizes_any_model(device, kind, body):
    opts = ["MODEL.BACKBONE.CONV_BODY", body, "MODEL.USE_SYNCBN", True, "MODEL.DEVICE", device]
    backbone = build_backbone(config(*opts)).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(type(norm) is kind and norm.training for norm in norms)


def test_use_syncbn_leaves_frozen_norms_frozen():
    node = config("MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET", "MODEL.USE_SYNCBN", True)
    with torch.device("meta"):
        backbone = build_backbone(node)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules()) == 53


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_stages_of_a_resnet(modulated):
    options = {"deformable_stages": (3, 4), "deformable_groups": 2, "modulated": modulated}
    body = ResNet(50, width_per_group=4, **options).eval()
    deformable = {name for name, module in body.named_modules() if isinstance(module, DFConv2d)}
    blocks = {3: 6, 4: 3}
    assert deformable == {f"layer{stage}.{block}.conv2" for stage in blocks for block in range(blocks[stage])}
    assert {body.layer3[0].conv2.offset.out_channels, body.layer4[2].conv2.offset.out_channels} == {
        54 if modulated else 36
    }
    assert body(torch.zeros(1, 3, 64, 64))[3].shape == (1, 2048, 2, 2)


def test_small_hrnet_has_timms_layers():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        node = config("MODEL.BACKBONE.CONV_BODY", "HRNET-W18-SMALL-V2", "MODEL.HRNET.WIDTH", 0)
        node.merge_from_list(["MODEL.HRNET.NUM_BLOCKS", (4, 4, 4, 4), "MODEL.HRNET.NUM_MODULES", (1, 1, 4, 3)])
        ours = build_backbone(node).body.state_dict()
        theirs = timm.create_model("hrnet_w18_small_v2").state_dict()
    classifying = ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith(classifying)}
    assert {key: value.shape for key, value in ours.items()} == expected


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
