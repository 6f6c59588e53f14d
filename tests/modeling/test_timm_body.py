"""Networks of timm as the body of an FPN."""

import sys

import pytest
import torch
from torch import nn

from fcos_core.config import cfg
from fcos_core.deploy.compiler import compile_for_inference
from fcos_core.errors import InputError
from fcos_core.layers.sync_batch_norm import SyncBatchNorm
from fcos_core.modeling.backbone import build_backbone
from fcos_core.modeling.backbone.timm_body import TimmBody
from fcos_core.modeling.detector import build_detection_model
from fcos_core.structures.bounding_box import BoxList

timm = pytest.importorskip("timm")

SIX_LEVELS = ("MODEL.FCOS.FPN_STRIDES", [4, 8, 16, 32, 64, 128])


def config(name, *opts):
    node = cfg.clone()
    node.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.CONV_BODY", f"timm:{name}"])
    node.merge_from_list(["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32, "MODEL.FCOS.NUM_CONVS", 1, *opts])
    return node


def with_statistics(model):
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.uniform_(0.5, 1.5, generator=generator)
    return model


# "test_..." are timm's own networks for tests. One has activations inside its norms, one has no BatchNorm.
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("opts", [(), SIX_LEVELS], ids=["5 levels", "6 levels"])
def test_levels_come_from_the_networks_own_features(name, opts):
    backbone = build_backbone(config(name, *opts)).eval()
    expected = timm.create_model(name, features_only=True, feature_cls="getter").eval()
    expected.load_state_dict(backbone.body.net.state_dict())
    images = torch.randn(1, 3, 128, 256)
    features, maps = backbone.body(images), expected(images)
    chosen = [maps[expected.feature_info.reduction().index(stride)] for stride in backbone.body.strides]
    assert backbone.body.strides == ((4, 8, 16, 32) if opts else (8, 16, 32))
    torch.testing.assert_close(features, chosen, rtol=0, atol=0)
    strides = [128 // level.shape[-2] for level in backbone(images)]
    assert strides == [256 // level.shape[-1] for level in backbone(images)] == list(backbone.strides)


def test_names_of_weights_are_timms():
    body = build_backbone(config("test_convnext")).body
    published = set(timm.create_model("test_convnext").state_dict())
    names = {key.removeprefix("net.model.") for key in body.state_dict()}
    assert names <= published
    assert all(key.startswith(("head.", "norm_pre.")) for key in published - names)


def test_batch_norms_keep_their_statistics_and_everything_is_trained():
    body = build_backbone(config("test_efficientnet")).body.train()
    norms = [module for module in body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    assert all(parameter.requires_grad for parameter in body.parameters())


def test_synchronized_norms_keep_their_activations():
    body = with_statistics(build_backbone(config("test_efficientnet", "MODEL.USE_SYNCBN", True)).body)
    plain = build_backbone(config("test_efficientnet")).body
    plain.load_state_dict(body.state_dict())
    images = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(body.eval()(images), plain.eval()(images))
    norms = [module for module in body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, SyncBatchNorm) for norm in norms)
    body.train()(images)
    assert all(norm.num_batches_tracked == 1 for norm in norms)
    with pytest.raises(InputError, match="One image of 32x32 pixels is too small to train BatchNorms"):
        body(torch.zeros(1, 3, 32, 32))


class Shortened(nn.Module):
    """Network of three maps with a layer that none of them needs."""

    def __init__(self, strides=(8, 16, 32), divisor=8):
        super().__init__()
        self.feature_info = timm.models.FeatureInfo(
            [{"num_chs": 4, "reduction": stride, "module": "conv"} for stride in strides], out_indices=(0, 1, 2)
        )
        self.conv, self.unused = nn.Conv2d(3, 4, 3, divisor, 1), nn.Conv2d(4, 4, 1)
        self.path = nn.Module()
        self.path.drop_prob = 0.5

    def forward(self, x):
        x = self.conv(x)
        return [x, x[..., ::2, ::2], x[..., ::4, ::4]]


def test_what_no_map_needs_is_frozen_and_no_random_number_is_drawn():
    body = TimmBody(Shortened(), (8, 16, 32))
    assert {name for name, p in body.named_parameters() if not p.requires_grad} == {
        "net.unused.weight",
        "net.unused.bias",
    }
    assert body.net.path.drop_prob == 0


def test_maps_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"stride 8 has the shape \(1, 4, 16, 24\), not \(1, 4, 8, 12\)"):
        TimmBody(Shortened(divisor=4), (8, 16, 32))
    with pytest.raises(ValueError, match=r"its maps have the strides \[4, 8, 16\]"):
        TimmBody(Shortened(strides=(4, 8, 16), divisor=4), (8, 16, 32))


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        ("resnet5O", (), "timm has no network 'resnet5O'; the nearest is 'resnet50'"),
        ("test_vit", (), "cannot be the body of an FPN .*strides 8, 16, 32"),
        ("test_resnet", ("MODEL.BACKBONE.CHECKPOINT_STAGES", (2,)), "CHECKPOINT_STAGES is .*do not have it"),
        ("test_resnet", ("MODEL.FCOS.FPN_STRIDES", [8, 16, 32]), "5 or 6 levels"),
    ],
)
def test_networks_and_settings_that_do_not_fit(name, opts, message):
    with pytest.raises(InputError, match=message):
        build_backbone(config(name, *opts))


def test_input_that_timms_weights_do_not_take_is_named(caplog):
    as_trained = ("INPUT.TO_BGR255", False, "INPUT.PIXEL_MEAN", [0.5] * 3, "INPUT.PIXEL_STD", [0.5] * 3)
    build_backbone(config("test_resnet"))
    build_backbone(config("test_resnet", "MODEL.WEIGHT", "a.safetensors", *as_trained))
    assert caplog.messages == []
    build_backbone(config("test_resnet", "MODEL.WEIGHT", "a.safetensors", *as_trained[:4]))
    (message,) = caplog.messages
    assert "INPUT.TO_BGR255 False, INPUT.PIXEL_MEAN [0.5, 0.5, 0.5] and INPUT.PIXEL_STD [0.5, 0.5, 0.5]" in message


def test_without_timm_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"'timm:test_resnet' needs timm: run `pip install 'timm>=1\.0'`\."):
        build_backbone(config("test_resnet"))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_compiled_detector_detects_the_same(name, precision, tolerance):
    torch.manual_seed(0)
    opts = ("MODEL.FCOS.INFERENCE_TH", 0.0, "MODEL.FCOS.PRIOR_PROB", 0.3, "TEST.DETECTIONS_PER_IMG", 10)
    model = with_statistics(build_detection_model(config(name, *opts))).eval()
    images = torch.randn(1, 3, 64, 96)
    (expected,), (found,) = model(images), compile_for_inference(model, precision=precision)(images)
    torch.testing.assert_close(found.get_field("scores"), expected.get_field("scores").detach(), rtol=0, atol=tolerance)


def test_training_step_reaches_the_body():
    model = build_detection_model(config("test_resnet", *SIX_LEVELS)).train()
    target = BoxList(torch.tensor([[4.0, 4.0, 40.0, 50.0]]), (96, 64))
    target.add_field("labels", torch.tensor([1]))
    sum(model(torch.randn(1, 3, 64, 96), [target]).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
