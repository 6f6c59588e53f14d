from pathlib import Path

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.config.paths_catalog import dataset_paths, weights_url
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def merged(tmp_path, text):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    config = cfg.clone()
    config.merge_from_file(str(path))
    return config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_every_config_builds(path):
    config = cfg.clone()
    config.merge_from_file(str(path))
    # The commands take from the data what a config leaves to them.
    config.MODEL.FCOS.NUM_CLASSES, config.SOLVER.MAX_ITER = (
        config.MODEL.FCOS.NUM_CLASSES or 2,
        config.SOLVER.MAX_ITER or 1,
    )
    with torch.device("meta"):
        build_detection_model(config)


# Keys of the YAML files that HRNet-FCOS and later FCOS publish under configs/fcos.
PUBLISHED_HRNET = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  RPN_ONLY: True
  FCOS_ON: True
  BACKBONE:
    CONV_BODY: "HRNET-W18"
  RETINANET:
    USE_C5: False
  HRNET:
    FPN:
      CONV_STRIDE: 1
  FCOS:
    FPN_STRIDES: [4, 8, 16, 32, 64, 128]
    TARGET_ASSIGN: [[-1, 32], [32, 64], [64, 128], [128, 256], [256, 512], [512, 100000000]]
INPUT:
  MIN_SIZE_RANGE_TRAIN: (640, 800)
DATALOADER:
  SIZE_DIVISIBILITY: 32
"""
PUBLISHED_LATER = """
MODEL:
  WEIGHT: "https://example.org/download#X-101-64x4d.pkl"
  BACKBONE:
    CONV_BODY: "R-101-FPN-RETINANET"
  RESNETS:
    STRIDE_IN_1X1: False
    NUM_GROUPS: 64
    WIDTH_PER_GROUP: 4
    BACKBONE_OUT_CHANNELS: 256
    STAGE_WITH_DCN: (False, True, True, True)
    WITH_MODULATED_DCN: True
    DEFORMABLE_GROUPS: 1
  FCOS:
    NORM_REG_TARGETS: True
    CENTERNESS_ON_REG: True
    CENTER_SAMPLING_RADIUS: 1.5
    IOU_LOSS_TYPE: "giou"
    USE_DCN_IN_TOWER: True
TEST:
  BBOX_AUG:
    ENABLED: False
    H_FLIP: True
    SCALES: (400, 500, 600)
    MAX_SIZE: 2000
    SCALE_H_FLIP: True
"""


def test_published_hrnet_file_loads_and_builds(tmp_path):
    config = merged(tmp_path, PUBLISHED_HRNET)
    assert config.MODEL.FCOS.TARGET_ASSIGN[0] == [-1, 32]
    assert config.INPUT.MIN_SIZE_RANGE_TRAIN == (640, 800)
    with torch.device("meta"):
        build_detection_model(config)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("MODEL.BACKBONE.CONV_BODY", "HRNETW32", "HRNET-W32"),
        ("MODEL.BACKBONE.CONV_BODY", "R-50-C4", "body of another detector"),
        ("MODEL.BACKBONE.CONV_BODY", "R-101-FPN", "body of another detector"),
        ("MODEL.BACKBONE.CONV_BODY", "HRNET", "MODEL.HRNET.WIDTH"),
        ("MODEL.MASK_ON", True, "Only FCOS"),
        ("MODEL.RETINANET.USE_C5", True, "USE_C5"),
        ("MODEL.FCOS.FPN_STRIDES", [8, 16, 32], "5 or 6 levels"),
        ("MODEL.FCOS.FPN_STRIDES", [4, 8, 16, 32, 64], r"\[8, 16, 32, 64, 128\]"),
        ("MODEL.FCOS.TARGET_ASSIGN", [[0, 1]], "5 pairs"),
        ("MODEL.FCOS.TARGET_ASSIGN", [64, 128, 256, 512, 1024], "5 pairs"),
        ("MODEL.FCOS.NUM_CLASSES", 1, "counts the background"),
        ("MODEL.FCOS.PRIOR_PROB", 1.0, "PRIOR_PROB is 1.0"),
        ("MODEL.FCOS.NMS_TH", -0.5, "NMS_TH is -0.5"),
        ("TEST.DETECTIONS_PER_IMG", 0, "DETECTIONS_PER_IMG is 0"),
        ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 100, "multiple of 32"),
    ],
)
def test_settings_that_cannot_be_built(key, value, named):
    config = cfg.clone()
    config.merge_from_list([key, value])
    with torch.device("meta"), pytest.raises(InputError, match=named):
        build_detection_model(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  BACKBON:\n    CONV_BODY: x\n", "some.yaml: unknown config key 'MODEL.BACKBON.CONV_BODY'.*BACKBONE"),
        ("SOLVER:\n  LEARNING_RATE: 1\n", "unknown config key 'SOLVER.LEARNING_RATE'"),
        ("INPUT:\n  MAX_ITER: 1\n", "nearest known key is 'SOLVER.MAX_ITER'"),
        ("SOLVER:\n  STEPS: 3\n", "'SOLVER.STEPS' takes a tuple.*3 is an integer"),
        ("DATASETS:\n  CATALOG:\n    cells.v2:\n      img_dir: x\n", "NAME has no dots"),
        ("MODEL:\n  SYNCBN: 1\n", "'MODEL.SYNCBN' takes a boolean"),
        ("SOLVER:\n  MAX_ITER: 1.5\n", "'SOLVER.MAX_ITER' takes an integer"),
        ("SOLVER:\n  BASE_LR: fast\n", "'SOLVER.BASE_LR' takes a float"),
        ("MODEL: 3\n", "'MODEL' is a section"),
        ("MODEL: [\n", "not valid YAML"),
        ("just words\n", "must hold sections"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        merged(tmp_path, text)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"'nowhere.yaml' does not exist \(looked at /"):
        cfg.clone().merge_from_file("nowhere.yaml")


def test_overrides_come_in_pairs():
    with pytest.raises(InputError, match="KEY VALUE"):
        cfg.clone().merge_from_list(["MODEL.WEIGHT"])


def test_values_are_converted_to_their_keys_type(tmp_path):
    config = merged(tmp_path, "SOLVER:\n  BASE_LR: 1\n  STEPS: [1, 2]\nDATASETS:\n  TRAIN: ('a',)\n")
    config.merge_from_list(["MODEL.WEIGHT", "007", "OUTPUT_DIR", "2024_01"])
    assert config.SOLVER.BASE_LR == 1.0 and isinstance(config.SOLVER.BASE_LR, float)
    assert config.SOLVER.STEPS == (1, 2)
    assert config.DATASETS.TRAIN == ("a",)
    assert (config.MODEL.WEIGHT, config.OUTPUT_DIR) == ("007", "2024_01")


def test_clone_does_not_touch_the_defaults():
    config = cfg.clone()
    config.merge_from_list(["DATASETS.CATALOG.mine.img_dir", "x", "MODEL.FCOS.NUM_CLASSES", 3])
    assert "mine" not in cfg.DATASETS.CATALOG
    assert cfg.MODEL.FCOS.NUM_CLASSES == 81


def test_frozen_config_refuses_changes():
    config = cfg.clone()
    config.freeze()
    with pytest.raises(AttributeError, match="frozen"):
        config.merge_from_list(["SOLVER.MAX_ITER", 3])


def test_own_datasets_are_found_in_the_yaml(tmp_path):
    config = merged(tmp_path, "DATASETS:\n  CATALOG:\n    mine:\n      img_dir: pictures\n      ann_file: /a/b.json\n")
    assert dataset_paths("mine", "data", config.DATASETS.CATALOG) == ("data/pictures", "/a/b.json")


def test_named_datasets():
    assert dataset_paths("coco_2014_minival", "datasets", {}) == (
        "datasets/coco/val2014",
        "datasets/coco/annotations/instances_minival2014.json",
    )
    with pytest.raises(InputError, match="nearest known name is 'coco_2017_val'"):
        dataset_paths("coco_2017_vall", "datasets", {})
    with pytest.raises(InputError, match="img_dir and ann_file"):
        dataset_paths("mine", "datasets", {"mine": {"img_dir": "x"}})


def test_weights_catalog():
    assert weights_url("catalog://ImageNetPretrained/MSRA/R-50").endswith("/MSRA/R-50.pkl")
    with pytest.raises(InputError, match="known names are"):
        weights_url("catalog://ImageNetPretrained/R-51")
