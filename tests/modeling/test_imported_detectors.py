"""Weights of other frameworks under their YAML file of configs/zoo give the detections of their own framework."""

import json

import numpy as np
import pytest
import torch
from goldens import PARITY, check_samples, load_fill, needs_parity
from torch import nn
from torchvision.models.detection import fcos_resnet50_fpn

from fcos_core import Predictor
from fcos_core.config import cfg
from fcos_core.modeling.detector import build_detection_model
from fcos_core.structures.image_list import ImageList
from fcos_core.weights.frameworks import import_state

IMPORTS = PARITY / "imports"


def zoo_config(name):
    config = cfg.clone()
    config.merge_from_file(f"configs/zoo/{name}.yaml")
    config.MODEL.DEVICE = "cpu"
    return config


def filled_file(name, fill):
    """The weights of a framework's layout, as `fill.py` sets them, under the framework's keys."""
    rows = (line.split() for line in (IMPORTS / f"{name}.txt").read_text().splitlines())
    shapes = {key: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for key, shape in rows}
    return {key: torch.from_numpy(np.asarray(fill.fill_imported(key, shape))) for key, shape in shapes.items()}


@needs_parity
@pytest.mark.parametrize("name", sorted(path.name.split(".")[0] for path in IMPORTS.glob("*.golden.json")))
def test_goldens_of_mmdetection_and_adelaidet(name):
    """The goldens are in float64, apart from mmdetection's distances and both frameworks' boxes, in float32."""
    fill, golden = load_fill(), json.loads((IMPORTS / f"{name}.golden.json").read_text())
    pixels, sizes, _, _ = fill.inputs()
    images = ImageList(torch.from_numpy(pixels), sizes)
    with torch.device("meta"):
        model = build_detection_model(zoo_config(name))
    model.load_state_dict(import_state(filled_file(name, fill)).state, assign=True)
    model.double().eval()

    with torch.no_grad():
        features = model.backbone(images.tensors)
        outputs = model.rpn.head(features)
        detections = model.rpn.postprocess(model.rpn.locations(features, images.padded_size), *outputs, sizes)
    check_samples(features, golden["features"], seed=1, count=16)
    for key, levels in zip(("cls_logits", "bbox_reg", "centerness"), outputs, strict=True):
        check_samples(levels, golden[key], seed=2, count=32)
    for found, expected in zip(detections, golden["detections"], strict=True):
        assert found.continuous and len(found) == expected["n"]
        np.testing.assert_array_equal(found.get_field("labels"), expected["labels"])
        np.testing.assert_allclose(found.get_field("scores"), expected["scores"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.bbox, expected["boxes"], rtol=0, atol=1e-4)


SIDES = (160, 267)  # shorter side, and cap on the longer one
# The category id of each label of COCO; torchvision's labels are these ids, and 0 is its background.
NO_CATEGORIES = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
CATEGORY_IDS = [number for number in range(91) if number not in NO_CATEGORIES]


@pytest.fixture(scope="module")
def torchvisions():
    """torchvision's detector with random weights, whose features and scores have the spread of trained ones."""
    torch.manual_seed(0)
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, min_size=SIDES[0], max_size=SIDES[1])
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            norm.momentum = 1.0  # the statistics become those of the next batch
    with torch.no_grad():
        model.backbone.train()(torch.randn(2, 3, 128, 160))
    classes, boxes = model.head.classification_head, model.head.regression_head
    for layer, std, bias in (
        (classes.cls_logits, 0.04, -5.0),
        (boxes.bbox_reg, 0.02, 1.0),
        (boxes.bbox_ctrness, 0.03, 1.0),
    ):
        nn.init.normal_(layer.weight, std=std)
        nn.init.constant_(layer.bias, bias)
    classes.cls_logits.bias.data[list(NO_CATEGORIES)] = -50
    return model.eval()


def picture(height, width):
    rng = np.random.default_rng(height)
    blocks = np.kron(rng.random((-(-height // 16), -(-width // 16), 3)), np.ones((16, 16, 1)))
    return (blocks[:height, :width] * 200 + rng.random((height, width, 3)) * 55).astype(np.uint8)


@pytest.fixture(scope="module", params=[False, True], ids=["", "compiled"])
def predictor(torchvisions, request, tmp_path_factory):
    path = tmp_path_factory.mktemp("torchvision") / "weights.pth"
    torch.save(torchvisions.state_dict(), path)
    config = zoo_config("torchvision_fcos_resnet50_fpn")
    config.merge_from_list(["INPUT.MIN_SIZE_TEST", SIDES[0], "INPUT.MAX_SIZE_TEST", SIDES[1]])
    return Predictor(config, path, threshold=0, compile=request.param)


# Shrunk, enlarged and limited by the longer side; padded to 160x224, 160x256 and 96x288. Level P7 has cells of 80x112,
# 80x128 and 96x96 pixels, as torchvision divides, and a stride of 128.
@pytest.mark.parametrize("size", [(240, 320), (111, 166), (90, 300)])
def test_torchvisions_detector_live(torchvisions, predictor, size):
    image = picture(*size)
    found = predictor(image)
    with torch.no_grad():
        (expected,) = torchvisions([torch.from_numpy(image).permute(2, 0, 1) / 255])
    assert len(found) == len(expected["scores"]) > 20 and len(expected["labels"].unique()) > 5
    labels = torch.tensor(CATEGORY_IDS)[found.get_field("labels") - 1]
    # Rounding may swap two detections of almost equal scores, so each has to have one partner anywhere in the list.
    same_label = labels[:, None] == expected["labels"]
    same_score = (found.get_field("scores")[:, None] - expected["scores"]).abs() < 1e-4
    same_box = (found.bbox[:, None] - expected["boxes"]).abs().amax(dim=2) < 0.05
    pairs = (same_label & same_score & same_box).nonzero()
    assert torch.equal(pairs[:, 0], torch.arange(len(found)))
    assert torch.equal(pairs[:, 1].sort().values, torch.arange(len(found)))
