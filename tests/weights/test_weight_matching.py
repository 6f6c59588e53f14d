import logging
import pickle
import time

import numpy as np
import pytest
import torch
from layouts import LAYOUTS, layout, needs_layouts, zeros

from fcos_core.errors import InputError
from fcos_core.weights.state_dict_file import load_state_dict_file
from fcos_core.weights.weight_matching import load_matching_weights, match_keys, match_state_dicts

# Caffe2's names of the parameters in a block of the body.
TO_BLOB = {
    "conv1.weight": "branch2a_w",
    "bn1.weight": "branch2a_bn_s",
    "bn1.bias": "branch2a_bn_b",
    "conv2.weight": "branch2b_w",
    "bn2.weight": "branch2b_bn_s",
    "bn2.bias": "branch2b_bn_b",
    "conv3.weight": "branch2c_w",
    "bn3.weight": "branch2c_bn_s",
    "bn3.bias": "branch2c_bn_b",
    "downsample.0.weight": "branch1_w",
    "downsample.1.weight": "branch1_bn_s",
    "downsample.1.bias": "branch1_bn_b",
}


class Model(torch.nn.Module):
    """Module whose state dict has just the given keys."""

    def __init__(self, tensors):
        super().__init__()
        self.tensors = dict(tensors)

    def state_dict(self):
        return self.tensors


def body_of(shapes):
    return {
        key.removeprefix("backbone.body."): shape for key, shape in shapes.items() if key.startswith("backbone.body.")
    }


def small(*keys, **sizes):
    return {key: torch.zeros(sizes.get(key, 2)) for key in keys}


BODY = ("backbone.body.conv.weight", "backbone.body.layer1.conv.weight")
MODEL_KEYS = (*BODY, "backbone.fpn.inner.weight", "rpn.head.cls_logits.weight")


def load(model_state, file_state, caplog):
    model = Model({key: value.clone() for key, value in model_state.items()})
    logger = logging.getLogger("matching-test")
    with caplog.at_level(logging.INFO, logger=logger.name):
        matching = load_matching_weights(model, file_state, "w.pth", logger)
    (record,) = caplog.records
    return model.tensors, matching, record


def test_longest_suffix_wins_and_serves_one_key():
    model = ["a.b.stem.conv1.weight", "a.b.layer1.0.conv1.weight", "a.b.layer1.1.conv1.weight", "x.weight"]
    file = ["conv1.weight", "layer1.0.conv1.weight", "other.weight", "1.weight"]
    assert match_keys(model, file) == {
        "a.b.layer1.0.conv1.weight": "layer1.0.conv1.weight",
        "a.b.stem.conv1.weight": "conv1.weight",
    }


@pytest.mark.parametrize("reverse", [False, True])
def test_shortest_model_key_takes_a_shared_match(reverse):
    model = ["body.conv1.weight", "body.layer1.0.conv1.weight", "body.stage2.0.conv1.weight"]
    assert match_keys(model[::-1] if reverse else model, ["conv1.weight"]) == {"body.conv1.weight": "conv1.weight"}


def test_a_suffix_ends_at_a_dot_and_is_the_files():
    assert match_keys(["body.xconv.weight"], ["conv.weight", "body.body.xconv.weight"]) == {}
    assert match_keys(["conv.weight"], ["conv.weight"]) == {"conv.weight": "conv.weight"}


def test_thousands_of_keys_match_quickly():
    file = [f"stage{i}.{j}.branches.{k}.conv.weight" for i in range(10) for j in range(40) for k in range(20)]
    started = time.perf_counter()
    pairs = match_keys([f"backbone.body.{key}" for key in file], file)
    assert time.perf_counter() - started < 2
    assert pairs == {f"backbone.body.{key}": key for key in file}


def test_values_are_copied_in_place_in_the_models_dtype(caplog):
    model = {"a.weight": torch.zeros(2, dtype=torch.float64), "a.count": torch.zeros((), dtype=torch.int64)}
    model["a.weight"].requires_grad_()
    module = Model(model)
    state = {"a.weight": torch.tensor([1.5, 2.5], dtype=torch.float16), "a.count": torch.tensor(3.0)}
    load_matching_weights(module, state, "w.pth", logging.getLogger("matching-test"))
    assert module.tensors["a.weight"] is model["a.weight"]
    assert model["a.weight"].dtype == torch.float64 and model["a.weight"].tolist() == [1.5, 2.5]
    assert model["a.count"].dtype == torch.int64 and model["a.count"].item() == 3


def test_table_of_a_whole_file(caplog):
    state = {**small(*MODEL_KEYS), "fc.weight": torch.zeros(1), "incre_modules.0.weight": torch.zeros(1)}
    _, _, record = load(small(*MODEL_KEYS), state, caplog)
    assert record.levelno == logging.INFO
    assert record.getMessage().splitlines() == [
        "Weights of w.pth into the model:",
        "  loaded              4",
        "  missing             0",
        "  unexpected          0",
        "  not wanted          2  fc.weight, incre_modules.0.weight",
        "  shape mismatch      0",
    ]


def test_body_alone_is_normal_and_a_detector_with_gaps_is_not(caplog):
    body = {key.removeprefix("backbone.body."): torch.zeros(2) for key in BODY}
    _, matching, record = load(small(*MODEL_KEYS), body, caplog)
    assert record.levelno == logging.INFO and matching.missing == list(MODEL_KEYS[2:])
    assert (
        "  missing             2  backbone.fpn.inner.weight, rpn.head.cls_logits.weight (left at initialization)"
        in record.getMessage().splitlines()
    )
    caplog.clear()
    _, _, record = load(small(*MODEL_KEYS), small(*MODEL_KEYS[:3]), caplog)
    assert record.levelno == logging.WARNING
    caplog.clear()
    _, matching, record = load(small(*MODEL_KEYS), {**body, "strange.weight": torch.zeros(1)}, caplog)
    assert record.levelno == logging.WARNING and matching.unexpected == ["strange.weight"]


def test_head_of_other_classes_is_left_with_a_warning(caplog):
    model = {**small(*MODEL_KEYS), "rpn.head.cls_logits.weight": torch.full((3, 4), 7.0)}
    file = {**{key: torch.ones(2) for key in MODEL_KEYS}, "rpn.head.cls_logits.weight": torch.ones(80, 4)}
    tensors, _, record = load(model, file, caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage().splitlines()[-1] == (
        "  shape mismatch      1  rpn.head.cls_logits.weight 80x4 -> 3x4 (left at initialization)"
    )
    assert tensors["rpn.head.cls_logits.weight"].eq(7).all() and tensors[BODY[0]].eq(1).all()


@pytest.mark.parametrize("key", [BODY[0], "backbone.fpn.inner.weight"])
def test_backbone_of_other_shapes_is_another_model(key, caplog):
    model = Model(small(*MODEL_KEYS))
    file = {**{name: torch.ones(2) for name in MODEL_KEYS}, key: torch.ones(3, 1)}
    with pytest.raises(InputError, match=rf"of another model: '{key}' is 3x1 in the file and 2 in the model"):
        load_matching_weights(model, file, "w.pth", logging.getLogger("matching-test"))
    assert all(value.eq(0).all() for value in model.tensors.values())


@pytest.mark.parametrize(
    ("file_keys", "sentence"),
    [
        (["x.weight"], r"none of its 1 keys \(e\.g\. x\.weight\) is among the model's 4"),
        (["fc.weight"], "none of its 1 keys"),
        ([], "none of its 0 keys"),
        (MODEL_KEYS[1:], r"lacks 1 parameters of the model \(e\.g\. backbone\.body\.conv\.weight\) and has 0"),
        ([*MODEL_KEYS, "backbone.body.layer9.weight"], r"lacks 0 parameters of the model and has 1 .*layer9\.weight"),
        # A deeper body: an ImageNet file of R-101 for R-50.
        (["conv.weight", "layer1.conv.weight", "layer1.22.conv.weight"], r"has 1 .*layer1\.22\.conv\.weight"),
        (MODEL_KEYS[2:], "lacks 2 parameters"),
    ],
)
def test_file_of_another_model(file_keys, sentence, caplog):
    model = Model(small(*MODEL_KEYS))
    file = {key: torch.ones(2) for key in file_keys}
    with pytest.raises(InputError, match=rf"'w\.pth' is of another model: .*{sentence}"):
        load_matching_weights(model, file, "w.pth", logging.getLogger("matching-test"))
    assert all(value.eq(0).all() for value in model.tensors.values())


def test_what_a_file_may_lack():
    bn = [f"backbone.body.bn.{name}" for name in ("weight", "running_mean", "running_var", "num_batches_tracked")]
    model = small(*bn)
    assert match_state_dicts(model, small(bn[0])).missing == []
    assert match_state_dicts(model, small(bn[0], bn[1])).missing == [bn[2]]
    extra = small(*bn[:3], "backbone.body.other.num_batches_tracked")
    assert match_state_dicts(model, extra).unexpected == match_state_dicts(model, extra).missing == []


def test_some_missing_statistics_are_warned_of(caplog):
    keys = [*BODY, "backbone.body.bn.running_mean", "backbone.body.bn.running_var"]
    _, matching, record = load(small(*keys), small(*keys[:3]), caplog)
    assert matching.missing == keys[3:] and record.levelno == logging.WARNING


def caffe2_blobs(shapes):
    """Make a file like MSRA's for the ResNet of a layout, every blob filled with the number of its key."""
    blobs = {"weight_order": ["a"], "fc1000_w": np.ones(3), "fc1000_b": np.ones(3), "conv1_b": np.ones(64)}
    stem = {"conv1.weight": "conv1_w", "bn1.weight": "res_conv1_bn_s", "bn1.bias": "res_conv1_bn_b"}
    for number, (key, shape) in enumerate(shapes.items()):
        if not key.startswith("backbone.body.") or "running" in key:
            continue
        key = key.removeprefix("backbone.body.")
        if key.startswith("stem."):
            blob = stem[key.removeprefix("stem.")]
        else:
            stage, block, rest = key.removeprefix("layer").split(".", 2)
            blob = f"res{int(stage) + 1}_{block}_{TO_BLOB[rest]}"
        blobs[blob] = np.full(shape, number, np.float32)
        blobs[f"{blob}_momentum"] = np.zeros(1)
    return blobs


@needs_layouts
def test_caffe2_file_into_a_whole_layout(tmp_path, caplog):
    # The released ranks, with sizes capped to keep it quick.
    shapes = {key: tuple(min(size, 16) for size in shape) for key, shape in layout("R_50_5l").items()}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": caffe2_blobs(shapes)}, protocol=2))
    model = {key: torch.full(shape, -1.0) for key, shape in shapes.items()}
    tensors, matching, record = load(model, load_state_dict_file(str(path)), caplog)
    assert record.levelno == logging.INFO and not matching.unexpected
    for number, key in enumerate(shapes):
        in_file = key.startswith("backbone.body.") and "running" not in key
        assert tensors[key].eq(number if in_file else -1).all(), key


@needs_layouts
@pytest.mark.parametrize("name", ["R_101_5l", "X_101_32x8d_5l", "X_101_64x4d_5l"])
def test_caffe2_names_of_every_resnet(name, tmp_path):
    shapes = {key: (number,) for number, key in enumerate(layout(name))}
    path = tmp_path / "R.pkl"
    path.write_bytes(pickle.dumps(caffe2_blobs(shapes)))
    matching = match_state_dicts(zeros(shapes), load_state_dict_file(str(path)))
    body = [key for key in shapes if key.startswith("backbone.body.")]
    assert list(matching.loaded) == [key for key in body if "running" not in key]
    assert not matching.unexpected and not matching.mismatched


@needs_layouts
@pytest.mark.parametrize("name", ["hrnet_w18_5l", "hrnet_w32_6l"])
def test_imagenet_hrnet_into_a_whole_layout(name, caplog):
    shapes = layout(name)
    file = body_of(shapes)
    wanted = len(file)
    for key in ("incre_modules.0.0.conv1.weight", "downsamp_modules.0.0.bias", "final_layer.0.weight"):
        file[key] = (3,)
    file["classifier.weight"] = (1000, 2048)
    matching = match_state_dicts(zeros(shapes), zeros(file))
    assert len(matching.loaded) == wanted and len(matching.not_wanted) == 4
    assert all(key == f"backbone.body.{theirs}" for key, theirs in matching.loaded.items())
    assert not matching.unexpected and not matching.mismatched and matching.is_normal


@needs_layouts
def test_every_released_layout_loads_into_itself_and_into_no_other_backbone():
    names = [path.stem for path in LAYOUTS.glob("*.txt")]
    shapes = {name: zeros(layout(name)) for name in names}
    for state in shapes.values():
        matching = match_state_dicts(state, state)
        assert {key for key in matching.loaded if key != matching.loaded[key]} == set()
        assert len(matching.loaded) == len(state) and matching.is_normal
    logger = logging.getLogger("matching-test")
    for theirs, ours in [
        ("R_101_5l", "R_50_5l"),
        ("R_50_5l", "R_101_5l"),
        ("hrnet_w18_5l", "hrnet_w32_5l"),
        ("hrnet_w18_5l", "R_50_5l"),
        ("R_50_5l", "hrnet_w18_5l"),
        ("bn_MNV2", "R_50_5l"),
        ("X_101_32x8d_5l", "X_101_64x4d_5l"),
        ("X_101_64x4d_5l", "R_101_5l"),
    ]:
        with pytest.raises(InputError, match="of another model"):
            load_matching_weights(Model(shapes[ours]), shapes[theirs], theirs, logger)
        with pytest.raises(InputError, match="of another model"):
            load_matching_weights(Model(shapes[ours]), zeros(body_of(layout(theirs))), theirs, logger)


def _nested():
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(1)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.ones(2).to_sparse(), "is sparse"),
        (torch.ones(2, 2).to_sparse_csr(), "is sparse"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "is quantized"),
        (torch.empty(2, device="meta"), "without data"),
        (torch.ones(2, dtype=torch.complex64), "is complex"),
        (_nested, "is nested"),
        (torch.ones(2, dtype=torch.int8), r"is torch\.int8 in the file and torch\.float32 in the model"),
        (torch.ones(2, dtype=torch.bool), r"is torch\.bool in the file"),
        (torch.ones(3), "of another model"),
        (torch.ones(0), "of another model"),
    ],
)
def test_tensors_that_are_no_weights_are_refused_before_any_is_copied(value, sentence):
    model = Model(small(*MODEL_KEYS))
    file = {key: torch.ones(2) for key in MODEL_KEYS}
    file["backbone.fpn.inner.weight"] = value() if callable(value) else value
    with pytest.raises(InputError, match=rf"'w\.pth' .*{sentence}"):
        load_matching_weights(model, file, "w.pth", logging.getLogger("matching-test"))
    assert all(value.eq(0).all() for value in model.tensors.values())


def test_expanded_and_transposed_tensors_load(caplog):
    model = {"backbone.body.conv.weight": torch.zeros(3, 2)}
    file = {"backbone.body.conv.weight": torch.tensor([[1.0, 2.0]]).expand(3, 2).t().contiguous().t()}
    tensors, *_ = load(model, file, caplog)
    assert tensors["backbone.body.conv.weight"].tolist() == [[1, 2]] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (MODEL_KEYS[0], [1.0, float("nan")]),
        (MODEL_KEYS[3], [float("-inf"), 1.0]),
        ("backbone.body.bn.running_mean", [float("nan"), 0.0]),
        ("backbone.body.bn.running_var", [-1.0, 0.5]),
        (MODEL_KEYS[0], torch.tensor([1e300, 0], dtype=torch.float64)),  # infinite in float32
    ],
)
def test_numbers_that_no_training_leaves_are_warned_of(key, value, caplog):
    keys = [*MODEL_KEYS, "backbone.body.bn.running_mean", "backbone.body.bn.running_var"]
    state = {**{name: torch.ones(2) for name in keys}, key: torch.as_tensor(value)}
    matching = load_matching_weights(Model(small(*keys)), state, "w.pth", logging.getLogger("matching-test"))
    assert matching.unusable == [key]
    assert f"'w.pth' has NaN, infinite numbers or negative variances in 1 tensors: {key}." in caplog.text


def test_a_plain_convolution_goes_into_a_deformable_one(caplog):
    deformable = ("backbone.body.layer2.0.conv2", "rpn.head.cls_tower.9")
    model = small(BODY[0], "backbone.fpn.inner.conv.weight", *(f"{layer}.conv.weight" for layer in deformable))
    model.update(small(*(f"{layer}.offset.{name}" for layer in deformable for name in ("weight", "bias"))))
    body = small("conv.weight", "layer2.0.conv2.weight")
    _, matching, record = load(model, body, caplog)
    assert matching.loaded == {
        BODY[0]: "conv.weight",
        "backbone.body.layer2.0.conv2.conv.weight": "layer2.0.conv2.weight",
    }
    # Offsets, which no file of a body has, keep their initialization.
    assert record.levelno == logging.INFO and "backbone.body.layer2.0.conv2.offset.weight" in matching.missing
    plain = {BODY[0]: "", "backbone.fpn.inner.conv.weight": "", **{f"{layer}.weight": "" for layer in deformable}}
    assert list(match_keys(model, plain).values()) == list(plain)
    # The longest name wins, and what is not deformable takes no other layer's weights.
    assert match_keys([f"{deformable[0]}.conv.weight"], plain) == {}
    both = [f"{deformable[0]}.conv.weight", f"{deformable[0]}.weight"]
    assert match_keys(model, both) == {both[0]: both[0]}


@needs_layouts
def test_caffe2_file_into_deformable_stages(tmp_path):
    ours, plain = layout("imprv_dcnv2_R_50"), layout("R_50_5l")
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(caffe2_blobs({key: (number,) for number, key in enumerate(plain)})))
    matching = match_state_dicts({key: torch.empty(1) for key in ours}, load_state_dict_file(str(path)))
    loaded = [*matching.loaded, *(key for key, _, _ in matching.mismatched)]
    assert sorted(loaded) == sorted(
        key for key in ours if ".body." in key and "running" not in key and ".offset." not in key
    )
    assert not matching.unexpected
