"""Weights of other frameworks get this project's names and values."""

import logging
import pickle
import re

import numpy as np
import pytest
import torch
import torchvision
from layouts import IMPORTS, LAYOUTS, layout, needs_layouts, zeros

from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.weights.checkpoint_meta import CheckpointMeta
from fcos_core.weights.checkpointer import DetectronCheckpointer
from fcos_core.weights.frameworks import import_state
from fcos_core.weights.importing import import_weights, recognize
from fcos_core.weights.state_dict_file import load_state_dict_file


def numbered(*keys, shape=(2,)):
    """Make tensors that differ from one another."""
    return {key: torch.full(shape, float(number)) for number, key in enumerate(keys, 1)}


def weight_and_bias(*layers):
    return [f"{layer}.{name}" for layer in layers for name in ("weight", "bias")]


def shapes(tensors):
    return {key: tuple(value.shape) for key, value in tensors.items()}


MMDET_HEAD = ["bbox_head.conv_cls.weight", "bbox_head.conv_reg.bias", "bbox_head.conv_centerness.weight"]
MMDET_RESNET = {
    **numbered(*MMDET_HEAD, "backbone.bn1.running_var", "backbone.layer2.0.bn1.running_var"),
    **numbered("backbone.layer2.0.bn1.num_batches_tracked", "bbox_head.scales.3.scale", shape=()),
    **numbered("backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "bbox_head.cls_convs.2.conv.weight"),
    **numbered("bbox_head.reg_convs.1.gn.weight", "neck.lateral_convs.1.conv.bias", "neck.fpn_convs.2.conv.bias"),
    **numbered("neck.fpn_convs.4.conv.bias", "neck.fpn_convs.3.conv.bias"),
}


def test_mmdets_resnet():
    imported = import_state({**MMDET_RESNET, "bbox_head.cls_convs.2.conv.weight": torch.ones(5, 4, 3, 3)})
    state = imported.state
    assert imported.conventions == "mmdet_fcos_r50_caffe"
    pairs = {
        "backbone.conv1.weight": "backbone.body.stem.conv1.weight",
        "backbone.layer1.0.conv1.weight": "backbone.body.layer1.0.conv1.weight",
        "neck.lateral_convs.1.conv.bias": "backbone.fpn.fpn_inner3.bias",
        "neck.fpn_convs.2.conv.bias": "backbone.fpn.fpn_layer4.bias",
        "neck.fpn_convs.3.conv.bias": "backbone.fpn.top_blocks.p6.bias",
        "neck.fpn_convs.4.conv.bias": "backbone.fpn.top_blocks.p7.bias",
        "bbox_head.reg_convs.1.gn.weight": "rpn.head.bbox_tower.4.weight",
        "bbox_head.conv_cls.weight": "rpn.head.cls_logits.weight",
        "bbox_head.conv_reg.bias": "rpn.head.bbox_pred.bias",
        "bbox_head.conv_centerness.weight": "rpn.head.centerness.weight",
    }
    assert {ours: state.pop(ours) is MMDET_RESNET[theirs] for theirs, ours in pairs.items()} == dict.fromkeys(
        pairs.values(), True
    )
    assert state.pop("rpn.head.scales.3.scale").tolist() == [MMDET_RESNET["bbox_head.scales.3.scale"].item()]
    assert state.pop("rpn.head.cls_tower.6.weight").shape == (5, 4, 3, 3)
    # A convolution before a normalization has no bias in the file.
    assert state.pop("rpn.head.cls_tower.6.bias").tolist() == [0] * 5
    for ours in ("stem.bn1.running_var", "layer2.0.bn1.running_var"):
        theirs = MMDET_RESNET[f"backbone.{ours.removeprefix('stem.')}"]
        assert torch.equal(state.pop(f"backbone.body.{ours}"), theirs + 1e-5)
    assert not state


def test_mmdets_older_names():
    older = {key.replace("_head.conv_", "_head.fcos_"): value for key, value in MMDET_RESNET.items()}
    assert any("fcos_centerness" in key for key in older)
    assert import_state(older).state.keys() == import_state(MMDET_RESNET).state.keys()


def test_mmdets_hrnet_keeps_variances_and_counters():
    keys = ["neck.reduction_conv.conv.weight", "neck.fpn_convs.4.conv.weight", "backbone.bn1.running_var"]
    keys += ["backbone.stage4.0.branches.0.0.conv1.weight", "backbone.bn1.num_batches_tracked"]
    imported = import_state(file := numbered(*MMDET_HEAD, *keys, shape=(18,)))
    assert imported.conventions == "mmdet_fcos_hrnetv2p_w18"
    ours = ["fpn.reduction_conv.0.weight", "fpn.fpn_conv.4.weight", "body.bn1.running_var"]
    ours += ["body.stage4.0.branches.0.0.conv1.weight", "body.bn1.num_batches_tracked"]
    assert all(imported.state[f"backbone.{name}"] is file[key] for name, key in zip(ours, keys, strict=True))


@pytest.mark.parametrize("separator", [".conv_offset", "_offset"])
def test_deformable_convolutions(separator):
    body = weight_and_bias(f"backbone.layer2.0.conv2{separator}") + ["backbone.layer2.0.conv2.weight"]
    file = {**MMDET_RESNET, **numbered(*body)}
    for tower in ("cls", "reg"):
        file.update(numbered(*weight_and_bias(f"bbox_head.{tower}_convs.3.conv.conv_offset")))
        file.update(numbered(*weight_and_bias(f"bbox_head.{tower}_convs.3.conv", f"bbox_head.{tower}_convs.0.conv")))
    imported = import_state(file)
    assert imported.conventions == "mmdet_fcos_r50_caffe_dcn"
    assert imported.state["backbone.body.layer2.0.conv2.conv.weight"] is file["backbone.layer2.0.conv2.weight"]
    assert imported.state["backbone.body.layer2.0.conv2.offset.bias"] is file[body[1]]
    for key in weight_and_bias("cls_tower.9.conv", "cls_tower.9.offset", "bbox_tower.9.conv", "bbox_tower.9.offset"):
        assert f"rpn.head.{key}" in imported.state
    assert not any("offset." in key and ".offset." not in key for key in imported.state)


@pytest.mark.parametrize(("classes", "rows"), [(91, 80), (4, 3)])
def test_torchvisions_classes_begin_after_the_background(classes, rows):
    with torch.device("meta"):
        shape_of = torchvision.models.detection.fcos_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=classes
        ).state_dict()
    file = zeros(shapes(shape_of))
    key = "head.classification_head.cls_logits.bias"
    file[key] = torch.arange(float(classes))
    imported = import_state(file)
    classes_of = imported.state["rpn.head.cls_logits.bias"].tolist()
    assert len(classes_of) == rows and imported.state["rpn.head.cls_logits.weight"].shape[0] == rows
    # COCO's category ids are the row numbers; those of "person", "stop sign" and "toothbrush" are 1, 13 and 90.
    assert classes_of == [1, 2, 3] if classes == 4 else (classes_of[0], classes_of[11], classes_of[79]) == (1, 13, 90)
    assert [imported.state[f"rpn.head.scales.{level}.scale"].tolist() for level in range(5)] == [[1.0]] * 5


def test_adelaidets_names():
    body = "backbone.bottom_up."
    pairs = {
        f"{body}stem.conv1.weight": "backbone.body.stem.conv1.weight",
        f"{body}stem.conv1.norm.bias": "backbone.body.stem.bn1.bias",
        f"{body}res2.0.shortcut.weight": "backbone.body.layer1.0.downsample.0.weight",
        f"{body}res2.0.shortcut.norm.bias": "backbone.body.layer1.0.downsample.1.bias",
        f"{body}res4.22.conv3.weight": "backbone.body.layer3.22.conv3.weight",
        f"{body}res5.1.conv2.norm.running_mean": "backbone.body.layer4.1.bn2.running_mean",
        "backbone.fpn_lateral3.weight": "backbone.fpn.fpn_inner2.weight",
        "backbone.fpn_output5.bias": "backbone.fpn.fpn_layer4.bias",
        "backbone.top_block.p7.bias": "backbone.fpn.top_blocks.p7.bias",
        "proposal_generator.fcos_head.cls_logits.weight": "rpn.head.cls_logits.weight",
        "proposal_generator.fcos_head.ctrness.bias": "rpn.head.centerness.bias",
        "proposal_generator.fcos_head.scales.4.scale": "rpn.head.scales.4.scale",
    }
    file = numbered(*pairs, f"{body}stem.conv1.norm.running_var", "pixel_mean", "pixel_std")
    state = import_state(file).state
    variance = state.pop("backbone.body.stem.bn1.running_var")
    assert torch.equal(variance, file[f"{body}stem.conv1.norm.running_var"] + 1e-5)
    assert {key: id(value) for key, value in state.items()} == {ours: id(file[key]) for key, ours in pairs.items()}


def test_no_conventions_are_claimed_for_adelaidets_resnext():
    head = numbered("proposal_generator.fcos_head.cls_logits.weight")
    for channels, conventions in ((64, "adelaidet_fcos_R_50_1x"), (256, "")):
        file = {**head, "backbone.bottom_up.res2.0.conv1.weight": torch.zeros(channels, 64, 1, 1)}
        assert import_state(file).conventions == conventions
    assert import_state(head).framework == "AdelaiDet's FCOS"  # another body, which no model here has


def test_detectron2s_pickle_of_arrays(tmp_path):
    names = ["proposal_generator.fcos_head.cls_logits.weight", "backbone.bottom_up.res2.0.conv1.weight"]
    arrays = {name: np.ones(2, np.float32) for name in names}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True}))
    state = import_state(load_state_dict_file(str(tmp_path / "w.pkl"))).state
    assert list(state) == ["rpn.head.cls_logits.weight", "backbone.body.layer1.0.conv1.weight"]


@pytest.mark.parametrize(("dtype", "wider"), [("float16", "float32"), ("float64", "float64")])
def test_the_epsilon_is_not_lost_in_half_precision(dtype, wider):
    key = "layer4.0.bn1.running_var"
    state = import_state({**RESNET, key: torch.tensor([0.5], dtype=getattr(torch, dtype))}).state
    variance = state[f"backbone.body.{key}"]
    assert variance.dtype == getattr(torch, wider)
    assert variance.item() == pytest.approx(0.5 + 1e-5, rel=1e-7)


RESNET = numbered("conv1.weight", "bn1.running_mean", "layer4.0.bn1.running_var", "fc.weight")


def test_imagenet_resnet():
    state = import_state(RESNET).state
    assert list(state) == [
        f"backbone.body.{key}" for key in ("stem.conv1.weight", "stem.bn1.running_mean", "layer4.0.bn1.running_var")
    ]
    assert torch.equal(state["backbone.body.layer4.0.bn1.running_var"], RESNET["layer4.0.bn1.running_var"] + 1e-5)
    # Without a classifier and without statistics it is one of Caffe's, which needs no change.
    del (caffe := dict(RESNET))["fc.weight"]
    assert import_state(caffe) is not None
    assert import_state({**caffe, "bn1.running_mean": torch.zeros(2)}) is None


def imported_layouts():
    names = {
        "mmdet_fcos_hrnetv2p_w18": "hrnet_w18_5l",
        "mmdet_fcos_hrnetv2p_w32": "hrnet_w32_5l",
        "mmdet_fcos_r50_caffe": "R_50_5l",
        "mmdet_fcos_r50_caffe_tricks": "imprv_R_50",
        "adelaidet_fcos_R_50_1x": "imprv_R_50",
    }
    return [pytest.param(theirs, ours, id=theirs) for theirs, ours in names.items()]


@needs_layouts
@pytest.mark.parametrize(("theirs", "ours"), imported_layouts())
def test_every_key_of_a_layout_has_its_counterpart(theirs, ours):
    imported = import_state(zeros(layout(theirs, IMPORTS)))
    assert imported.conventions == theirs
    wanted = {key: shape for key, shape in layout(ours).items() if "hrnet" in ours or "batches" not in key}
    assert shapes(imported.state) == wanted


@needs_layouts
def test_mmdets_deformable_model_fills_the_improved_deformable_layout():
    file = layout("mmdet_fcos_r50_caffe_tricks", IMPORTS)
    layers = [key.removesuffix(".weight") for key in file if re.search(r"layer[234]\.\d\.conv2\.weight", key)]
    layers += [f"bbox_head.{tower}_convs.3.conv" for tower in ("cls", "reg")]
    for layer in layers:
        file[f"{layer}.conv_offset.weight"] = (27, file[f"{layer}.weight"][1], 3, 3)
        file[f"{layer}.conv_offset.bias"] = (27,)
    assert shapes(import_state(zeros(file)).state) == layout("imprv_dcnv2_R_50")


@needs_layouts
def test_mmdets_w40_fills_a_model():
    config = cfg.clone()
    config.merge_from_file("configs/fcos/fcos_hrnet_w40_6l_3x.yaml")
    config.merge_from_list(["MODEL.HRNET.FPN.CONV_STRIDE", 2, "MODEL.FCOS.FPN_STRIDES", (8, 16, 32, 64, 128)])
    with torch.device("meta"):
        model = build_detection_model(config)
    assert shapes(import_state(zeros(layout("mmdet_fcos_hrnetv2p_w40", IMPORTS))).state) == shapes(model.state_dict())


@needs_layouts
def test_own_layouts_are_no_other_frameworks():
    names = [path.stem for path in LAYOUTS.glob("*.txt")]
    assert len(names) >= 16
    for name in names:
        whole = zeros(layout(name))
        body = {key.removeprefix("backbone.body."): value for key, value in whole.items() if ".body." in key}
        assert import_state(whole) is import_state(body) is None, name


def test_a_file_that_is_not_what_its_keys_say(caplog):
    incomplete = {**MMDET_RESNET, **numbered("neck.reduction_conv.conv.weight")}
    scale = {**MMDET_RESNET, "bbox_head.scales.0.scale": torch.ones(3)}
    rows = numbered("head.classification_head.cls_logits.weight", "head.regression_head.bbox_ctrness.weight", shape=())
    for state in (incomplete, scale, rows):
        with pytest.raises(InputError, match=r"'w\.pth' has keys of another framework's FCOS, but not its tensors"):
            recognize(state, "w.pth")
    with pytest.raises(InputError, match="is sparse"):
        recognize({**MMDET_RESNET, "bbox_head.scales.0.scale": torch.ones(2).to_sparse()}, "w.pth")


def test_a_line_says_what_was_recognized(caplog):
    logger = logging.getLogger("import-test")
    with caplog.at_level(logging.INFO, logger=logger.name):
        import_weights(torch.nn.Identity(), MMDET_RESNET, "w.pth", CheckpointMeta(), None, logger)
    (record,) = caplog.records
    assert "'w.pth' is mmdetection's FCOS with ResNet: its" in record.getMessage()


def load_body(file, config_file, *options):
    """Load a body's weights as a user does; return the body."""
    config = cfg.clone()
    config.merge_from_file(f"configs/fcos/{config_file}.yaml")
    config.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    with torch.device("meta"):
        model = build_detection_model(config)
    model.to_empty(device="cpu")
    DetectronCheckpointer(config, model).load_weights(str(file))
    return model.backbone.body.eval()


def randomized(model):
    """Give a network statistics as training leaves them."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


RGB_INPUT = (
    "INPUT.TO_BGR255",
    False,
    "INPUT.PIXEL_MEAN",
    [0.485, 0.456, 0.406],
    "INPUT.PIXEL_STD",
    [0.229, 0.224, 0.225],
)


@torch.no_grad()
def test_torchvisions_resnet_computes_the_same_features(tmp_path):
    theirs = randomized(torchvision.models.resnet50())
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    body = load_body(tmp_path / "resnet50.pth", "fcos_R_50_5l_2x", "MODEL.RESNETS.STRIDE_IN_1X1", False, *RGB_INPUT)
    images = torch.randn(1, 3, 64, 96)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    for layer, feature in zip(
        (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), body(images)[-4:], strict=True
    ):
        x = layer(x)
        torch.testing.assert_close(feature, x, rtol=1e-5, atol=1e-5 * x.abs().max().item())


@torch.no_grad()
def test_timms_hrnet_computes_the_same_branches(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    safetensors = pytest.importorskip("safetensors.torch")
    theirs = randomized(timm.create_model("hrnet_w18"))
    safetensors.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    body = load_body(tmp_path / "model.safetensors", "fcos_hrnet_w18_5l_2x", *RGB_INPUT)
    images = torch.randn(1, 3, 64, 96)
    x = theirs.act2(theirs.bn2(theirs.conv2(theirs.act1(theirs.bn1(theirs.conv1(images))))))
    for ours, branch in zip(body(images), theirs.stages(x), strict=True):
        torch.testing.assert_close(ours, branch, rtol=1e-5, atol=1e-5 * branch.abs().max().item())


def test_an_imagenet_resnet_is_left_as_it_is_for_another_body(caplog):
    # A body of timm has BatchNorms with an epsilon of their own, and its stride where the file has it.
    with caplog.at_level(logging.INFO):
        state = import_weights(
            torch.nn.Identity(), RESNET, "resnet50-0676ba61.pth", CheckpointMeta(), cfg, logging.getLogger()
        )
    assert state is RESNET and not caplog.records
