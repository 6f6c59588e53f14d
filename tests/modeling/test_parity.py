"""The published implementation's numbers, in float64 (../shared/parity/README.md says how each was made)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import PARITY, check_samples, load_fill, needs_parity

from fcos_core.config import cfg
from fcos_core.modeling.detector import build_detection_model
from fcos_core.solver import make_lr_scheduler, make_optimizer
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList

ROOT = Path(__file__).resolve().parents[2]

# model: (layout, parameters, as in the table of ../shared/parity/README.md)
MODELS = {
    "fcos_R_50_5l_2x": ("R_50_5l", 32_244_250),
    "fcos_hrnet_w18_5l_2x": ("hrnet_w18_5l", 17_502_702),
    "fcos_hrnet_w18_5l_ms_syncbn_2x": ("hrnet_w18_5l", 17_502_702),
    "fcos_R_50_6l_2x": ("R_50_6l", 32_900_123),
    "fcos_hrnet_w18_6l_2x": ("hrnet_w18_6l", 18_092_783),
    "fcos_hrnet_w18_6l_ms_syncbn_2x": ("hrnet_w18_6l", 18_092_783),
    "fcos_R_101_5l_2x": ("R_101_5l", 51_184_154),
    "fcos_hrnet_w32_5l_2x": ("hrnet_w32_5l", 37_299_738),
    "fcos_hrnet_w32_5l_syncbn_2x": ("hrnet_w32_5l", 37_299_738),
    "fcos_R_101_6l_2x": ("R_101_6l", 51_840_027),
    "fcos_hrnet_w32_6l_2x": ("hrnet_w32_6l", 37_889_819),
    "fcos_hrnet_w32_6l_syncbn_2x": ("hrnet_w32_6l", 37_889_819),
    "fcos_hrnet_w40_6l_3x": ("hrnet_w40_6l", 54_136_219),
}
OTHER_LAYOUTS = {
    "fcos_X_101_32x8d_FPN_2x": "X_101_32x8d_5l",
    "fcos_X_101_64x4d_FPN_2x": "X_101_64x4d_5l",
    "fcos_imprv_R_50_FPN_1x": "imprv_R_50",
    "fcos_imprv_X_101_64x4d_FPN_2x": "imprv_X_101_64x4d",
    "fcos_imprv_dcnv2_R_50_FPN_1x": "imprv_dcnv2_R_50",
    "fcos_imprv_dcnv2_X_101_64x4d_FPN_2x": "imprv_dcnv2_X_101_64x4d",
    "fcos_bn_bs16_MNV2_FPN_1x": "bn_MNV2",
}
LAYOUTS = {**{name: layout for name, (layout, _) in MODELS.items()}, **OTHER_LAYOUTS}


def build(name, opts=()):
    config = cfg.clone()
    config.merge_from_file(str(ROOT / "configs" / "fcos" / f"{name}.yaml"))
    config.merge_from_list(list(opts))
    return config, build_detection_model(config)


@pytest.fixture(scope="module")
def fill():
    return load_fill()


@pytest.fixture(scope="module")
def batch(fill):
    x, sizes, boxes, labels = fill.inputs()
    targets = []
    for (height, width), image_boxes, image_labels in zip(sizes, boxes, labels, strict=True):
        target = BoxList(torch.tensor(image_boxes, dtype=torch.float64), (width, height))
        target.add_field("labels", torch.tensor(image_labels))
        targets.append(target)
    return ImageList(torch.from_numpy(x), sizes), targets


@pytest.mark.parametrize("name", MODELS)
def test_parameters_of_the_table(name):
    with torch.device("meta"):
        _, model = build(name)
    assert sum(p.numel() for p in model.parameters()) == MODELS[name][1]


@needs_parity
@pytest.mark.parametrize(("name", "layout"), LAYOUTS.items())
def test_state_dict_layout(name, layout):
    with torch.device("meta"):
        _, model = build(name)
    expected = (PARITY / "layouts" / f"{layout}.txt").read_text().split("\n")
    shapes = {k: "x".join(map(str, v.shape)) or "scalar" for k, v in model.state_dict().items()}
    assert [f"{key} {shape}" for key, shape in shapes.items()] == [line for line in expected if line]


def golden_names():
    return sorted(path.name.removesuffix(".golden.json") for path in PARITY.glob("*.golden.json"))


@needs_parity
@pytest.mark.parametrize("layout", golden_names())
def test_outputs_and_gradients(layout, fill, batch):
    name = next(name for name, its_layout in LAYOUTS.items() if its_layout == layout)
    golden = json.loads((PARITY / f"{layout}.golden.json").read_text())
    images, targets = batch
    _, model = build(name)
    fill.fill_model(model.double().eval())

    with torch.no_grad():
        features = model.backbone(images.tensors)
        outputs = dict(zip(("cls_logits", "bbox_reg", "centerness"), model.rpn.head(features), strict=True))
        detections = model(images)
    check_samples(features, golden["features"], seed=1, count=16)
    for key, levels in outputs.items():
        check_samples(levels, golden[key], seed=2, count=32)
    for found, expected in zip(detections, golden["detections"], strict=True):
        assert len(found) == expected["n"]
        np.testing.assert_allclose(found.get_field("scores"), expected["scores"], rtol=1e-5)
        np.testing.assert_array_equal(found.get_field("labels"), expected["labels"])
        np.testing.assert_allclose(found.bbox, expected["boxes"], rtol=1e-5, atol=1e-5)

    losses = model.train()(images, targets)
    for key, expected in golden["losses"].items():
        assert losses[key].item() == pytest.approx(expected, rel=1e-5)
    sum(losses.values()).backward()
    norms = {n: p.grad.norm().item() for n, p in model.named_parameters() if p.requires_grad}
    assert norms == pytest.approx(golden["grad_norms"], rel=1e-5)


@pytest.mark.slow
@needs_parity
def test_ten_iterations(fill, batch):
    recorded = json.loads((PARITY / "trajectory.json").read_text())["hrnet_w18_5l"]
    images, targets = batch
    config, model = build("fcos_hrnet_w18_5l_2x", recorded["opts"])
    fill.fill_model(model.double()).train()
    optimizer = make_optimizer(config, model)
    scheduler = make_lr_scheduler(config, optimizer)
    for expected in recorded["trajectory"]:
        scheduler.step()
        losses = model(images, targets)
        assert optimizer.param_groups[0]["lr"] == expected["lr"]
        for key, loss in losses.items():
            assert loss.item() == pytest.approx(expected[key], rel=1e-4), f"iteration {expected['iter']}, {key}"
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
