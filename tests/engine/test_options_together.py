"""Every pair of values of two options works together: in training, testing, exact resuming and compiled."""

import json
from itertools import combinations, product

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_core.config import cfg
from fcos_core.data import make_data_loader
from fcos_core.engine import test as testing
from fcos_core.engine import train as training
from fcos_core.engine.inference import compute_predictions
from fcos_core.engine.test_time_augmentation import make_tested_detector
from fcos_core.modeling.backbone import mobilenet, resnet
from fcos_core.modeling.detector import build_detection_model

RESNET = {"MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET", "MODEL.RESNETS.WIDTH_PER_GROUP": 2}
RESNET["MODEL.RESNETS.STAGE_WITH_DCN"] = (False, False, True, True)
HRNET = {
    **{"MODEL.BACKBONE.CONV_BODY": "HRNET", "MODEL.HRNET.WIDTH": 4, "MODEL.HRNET.STEM_CHANNELS": 8},
    **{"MODEL.HRNET.STAGE1_CHANNELS": 4, "MODEL.HRNET.FPN.OUT_CHANNEL": 64},
    **{
        "MODEL.HRNET.NUM_MODULES": (1,) * 4,
        "MODEL.HRNET.NUM_BLOCKS": (1,) * 4,
        "MODEL.HRNET.NUM_BRANCHES": (1, 2, 2, 2),
    },
}
VIEWS = {"TEST.BBOX_AUG.ENABLED": True, "TEST.BBOX_AUG.H_FLIP": True, "TEST.BBOX_AUG.SCALES": (48,)}
AUGMENTATIONS = {
    f"INPUT.AUG.{kind}_PROB": 0.5
    for kind in ("VERTICAL_FLIP", "ZOOM_OUT", "IOU_CROP", "PHOTOMETRIC", "MOSAIC", "MIXUP", "COPY_RARE")
}
AUGMENTATIONS.update({"INPUT.AUG.SCALE_RANGE": (0.5, 1.5), "INPUT.AUG.ZOOM_OUT_MAX": 2.0})

# Each option with its values; a value is a set of keys.
OPTIONS = [
    [
        HRNET,
        {**RESNET, "MODEL.RESNETS.STAGE_WITH_DCN": (False, True, False, True)},
        {"MODEL.BACKBONE.CONV_BODY": "MNV2-FPN-RETINANET"},
    ],
    [{}, VIEWS, {**VIEWS, "TEST.BBOX_AUG.SCALE_H_FLIP": True, "TEST.BBOX_AUG.MERGE_TYPE": "soft-vote"}],
    [{"MODEL.FCOS.CENTER_SAMPLING_RADIUS": radius} for radius in (0.0, 1.5)],
    [{"MODEL.FCOS.BOX_QUALITY": quality} for quality in ("ctrness", "iou")],
    [{"MODEL.FCOS.LOSS_NORMALIZER": normalizer} for normalizer in ("positives_and_images", "positives")],
    [{"MODEL.FCOS.SCORE": score} for score in ("product", "sqrt")],
    [{"MODEL.FCOS.CANDIDATES": compared} for compared in ("class", "score")],
    [{"MODEL.FCOS.RANK_BY": rank} for rank in ("score", "class")],
    [{"MODEL.FCOS.LOCATIONS": place} for place in ("center", "corner")],
    [{"MODEL.FCOS.PIXELS": pixels} for pixels in ("inclusive", "continuous")],
    [{"MODEL.FCOS.CLIP": when} for when in ("before_nms", "after_nms")],
    *(
        [{f"MODEL.{key}": switch} for switch in (False, True)]
        for key in (
            *("FCOS.NORM_REG_TARGETS", "FCOS.CENTERNESS_ON_REG", "FCOS.USE_DCN_IN_TOWER", "FCOS.DROP_EMPTY"),
            "USE_SYNCBN",
        )
    ),
    [{"SOLVER.PRECISION": precision} for precision in ("float32", "bfloat16")],
    [{"SOLVER.ACCUMULATE_STEPS": steps} for steps in (1, 2)],
    [{}, {"SOLVER.EMA_DECAY": 0.5, "TEST.USE_EMA": True}],
    [{}, AUGMENTATIONS],
]
# Values that share all code but one function take turns over the rows.
TURNS = [
    [{"MODEL.FCOS.IOU_LOSS_TYPE": kind} for kind in ("iou", "linear_iou", "giou", "diou", "ciou")],
    [{"MODEL.RESNETS.WITH_MODULATED_DCN": modulated} for modulated in (False, True)],
    [{"INPUT.RESIZE": rule} for rule in ("fcos", "detectron2", "mmdet", "torchvision")],
]


def covering_rows(counts):
    """Choose rows of one value per option, greedily, until every pair of values of two options is in a row."""
    pairs = combinations(range(len(counts)), 2)
    missing = {((i, a), (j, b)) for i, j in pairs for a, b in product(range(counts[i]), range(counts[j]))}
    rows = []
    while missing:
        row = dict(min(missing))
        for option in range(len(counts)):
            if option not in row:
                others = list(row.items())
                new = [
                    sum(tuple(sorted([(option, value), other])) in missing for other in others)
                    for value in range(counts[option])
                ]
                # Of equally good values, rows take turns.
                row[option] = max(range(counts[option]), key=lambda v: (new[v], (v + len(rows)) % counts[option]))
        missing -= set(combinations(sorted(row.items()), 2))
        rows.append([row[option] for option in range(len(counts))])
    return rows


ROWS = covering_rows([len(values) for values in OPTIONS])


def test_every_pair_is_in_a_row():
    resnets = [number for number, row in enumerate(ROWS) if row[0] == 1]
    assert {number % 2 for number in resnets} == {0, 1} and len(ROWS) >= max(map(len, TURNS))
    for (i, first), (j, second) in combinations(enumerate(OPTIONS), 2):
        assert {(row[i], row[j]) for row in ROWS} == set(product(range(len(first)), range(len(second))))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A config with three images, two of them upright."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, (width, height) in enumerate([(72, 64), (60, 72), (48, 66)], start=1):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((width, height)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        boxes = [[4 * number, 6, 30, 24], [8, 20 + number, 12, 16]]
        common = {"image_id": number, "iscrowd": 0}
        annotations += [
            {"id": 2 * number + k, "category_id": 1 + k, "bbox": box, "area": box[2] * box[3], **common}
            for k, box in enumerate(boxes)
        ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "tiny.json").write_text(json.dumps(tree))
    config = cfg.clone()
    options = {
        **{"MODEL.DEVICE": "cpu", "MODEL.FCOS.NUM_CLASSES": 3},
        **{"MODEL.FCOS.NUM_CONVS": 1, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 64},
        **{"DATASETS.TRAIN": ("tiny",), "DATASETS.TEST": ("tiny",), "DATALOADER.NUM_WORKERS": 0},
        **{"DATASETS.CATALOG.tiny.img_dir": str(folder), "DATASETS.CATALOG.tiny.ann_file": str(folder / "tiny.json")},
        **{"INPUT.MIN_SIZE_RANGE_TRAIN": (48, 64), "INPUT.MAX_SIZE_TRAIN": 96},
        **{"INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 96},
        **{"SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 2, "SOLVER.BASE_LR": 0.001, "SOLVER.WARMUP_ITERS": 0},
    }
    config.merge_from_list([word for option in options.items() for word in option])
    return config


def start(config):
    """Build a detector that finds something: all scores of a new head are about equal, and its boxes are tiny."""
    model = build_detection_model(config)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.05)
    torch.nn.init.zeros_(model.rpn.head.cls_logits.bias)
    torch.nn.init.constant_(model.rpn.head.bbox_pred.bias, 2.0)
    return model


def rows_of(boxes):
    scores, labels = boxes.get_field("scores")[:, None], boxes.get_field("labels")[:, None]
    return torch.cat([boxes.bbox, scores, labels], dim=1)


def assert_same(found, expected):
    """Nine of ten boxes are the same within 0.05 pixels, with scores within 1e-4.

    Rounding decides between neighbours of almost equal scores, which flat parts of a tiny image have.
    """
    found, expected = rows_of(found), rows_of(expected)
    assert abs(len(found) - len(expected)) <= 0.1 * len(expected) and len(expected) > 0
    near = ((found[:, None] - expected).abs() <= torch.tensor([0.05, 0.05, 0.05, 0.05, 1e-4, 0])).all(dim=2)
    assert near.any(dim=0).float().mean() > 0.9, (found, expected)


def assert_equal(one, two):
    """Nested values are equal, bit for bit."""
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        for first, second in zip(one, two, strict=True):
            assert_equal(first, second)
    else:
        assert one == two


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_options_work_together(base, number, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "collect_env_info", str)  # takes a second
    monkeypatch.setattr(training, "build_detection_model", start)
    # Each part of a body once: files of hundreds of tensors take longer than the training.
    monkeypatch.setitem(resnet.BLOCKS_PER_STAGE, 50, (1, 1, 1, 1))
    blocks = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 1, 2), (6, 96, 1, 2), (6, 320, 1, 2))
    monkeypatch.setattr(mobilenet, "_BLOCKS", blocks)
    monkeypatch.setattr(mobilenet.MobileNetV2, "out_features", (2, 3, 4, 5))
    config = base.clone()
    chosen = [values[value] for values, value in zip(OPTIONS, ROWS[number], strict=True)]
    for keys in (*chosen, *(values[number % len(values)] for values in TURNS)):
        config.merge_from_list([word for option in keys.items() for word in option])

    # Test after the last iteration of an uninterrupted run; then resume from its checkpoint elsewhere.
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    config.OUTPUT_DIR, config.SOLVER.CHECKPOINT_PERIOD = str(whole), 1
    model = training.train(config, testing.test_data_loaders(config))
    resumed.mkdir()
    (whole / "model_0000001.pth").rename(resumed / "model_0000001.pth")
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    config.OUTPUT_DIR, config.SOLVER.CHECKPOINT_PERIOD = str(resumed), 100
    training.train(config)
    states = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, resumed)]
    for state in states:
        # Without durations, the name of the folder, and what the test found.
        for name in ("recent_values", "config", "best"):
            state.pop(name, None)
    assert_equal(*states)

    (loader,) = make_data_loader(config, is_train=False)
    expected = compute_predictions(make_tested_detector(config, model), loader, "cpu")
    compiled = compute_predictions(make_tested_detector(config, model, compile=True), loader, "cpu")
    during = torch.load(whole / "inference" / "tiny" / "predictions.pth", weights_only=True)
    for index in range(3):
        assert expected[index].continuous == (config.MODEL.FCOS.PIXELS == "continuous")
        assert_same(compiled[index], expected[index])
        assert_same(during[index], expected[index].with_pixels(continuous=False))
