"""What training keeps for the backward pass, counted on tensors without data, by CUDA's rules of autocast."""

import contextlib

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fcos_core.config import cfg
from fcos_core.layers import conv_norm as conv_norm_module
from fcos_core.layers.own_dtype import GroupNorm, Upsample
from fcos_core.modeling.detector import build_detection_model

# Two images of the size that most of COCO's have in training.
SHAPE = (2, 3, 800, 1344)


@contextlib.contextmanager
def autocast_of_cuda():
    """torch.autocast("cuda", torch.bfloat16), which turns itself off where there is no GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


class Made(TorchDispatchMode):
    """Remembers, without keeping it, every storage that is made within it."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {storage._cdata for storage in storages((args, kwargs))}
        for storage in storages(result):
            if storage._cdata not in given:
                self.sizes[StorageWeakRef(storage)] = storage.nbytes()
        return result


def storages(values):
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def kept_bytes(run):
    """Bytes of what run() makes and its graph and result keep alive."""
    with Made() as made:
        result = run()
    kept = sum(size for storage, size in made.sizes.items() if not storage.expired())
    del result
    return kept


def build(*opts):
    config = cfg.clone()
    config.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "HRNET-W18", *opts])
    with torch.device("cuda"):
        return build_detection_model(config).train()


def kept_in_training(*opts, half=True):
    with FakeTensorMode():
        model = build(*opts)
        images = torch.empty(SHAPE, device="cuda")
        with autocast_of_cuda() if half else contextlib.nullcontext():
            return kept_bytes(lambda: model.rpn.head(model.backbone(images)))


# ResNet's BatchNorms are frozen: as layers they keep no activation either.
@pytest.mark.parametrize(("body", "most"), [("HRNET-W18", 0.35), ("R-50-FPN-RETINANET", 0.6)])
def test_half_precision_keeps_far_less_than_plain_float32(body, most, monkeypatch):
    ours = kept_in_training("MODEL.BACKBONE.CONV_BODY", body)
    monkeypatch.setattr(conv_norm_module, "has_fixed_statistics", lambda norm: False)
    plain = kept_in_training("MODEL.BACKBONE.CONV_BODY", body, half=False)
    assert 0 < ours < most * plain


def test_stages_that_run_again_keep_their_inputs_alone():
    stages = ["MODEL.BACKBONE.CHECKPOINT_STAGES", (1, 2, 3, 4)]
    with FakeTensorMode():
        images = torch.empty(SHAPE, device="cuda")
        kept = []
        for opts in ([], stages):
            body = build(*opts).backbone.body
            kept.append(kept_bytes(lambda body=body: body(images)))
    # Of the ten maps that a branch of a module keeps, one; beside them the stem's, and the inputs of stage 1's blocks.
    assert 0 < kept[1] < 0.4 * kept[0]


def test_frozen_parts_keep_nothing():
    with FakeTensorMode():
        body = build("MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET").backbone.body
        images = torch.empty(SHAPE, device="cuda")
        with autocast_of_cuda():
            output = 2 * 256 * 200 * 336 * 2
            assert kept_bytes(lambda: body.layer1(body.stem(images))) == output
            assert kept_bytes(lambda: body.layer2(body.layer1(body.stem(images)))) > 2 * output


@pytest.mark.parametrize(
    "layer", [GroupNorm(2, 4), Upsample(scale_factor=2, mode="nearest"), Upsample(scale_factor=2, mode="bilinear")]
)
def test_layers_keep_the_dtype_of_their_input(layer):
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(1, 4, 8, 8, dtype=torch.bfloat16, device="cuda")
        with autocast_of_cuda():
            assert layer.to("cuda")(x).dtype == torch.bfloat16


def test_group_norm_in_half_precision_is_that_in_float32():
    torch.manual_seed(0)
    layer = GroupNorm(2, 4)
    nn.init.normal_(layer.weight)
    # A mean of three deviations, which the rounded statistics have to hold.
    x = torch.randn(2, 4, 16, 16) + 3
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    # Roundings of x, mean, deviation, weight and result, each of 2^-9, grown by the mean.
    torch.testing.assert_close(half.float(), layer(x), rtol=2**-6, atol=3 * 2**-6)
