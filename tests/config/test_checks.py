"""Rules: every key has one, and none lets a value through that no key of its type can have."""

import pytest

from fcos_core.config import cfg
from fcos_core.config.checks import RULES, check_values
from fcos_core.errors import InputError

# Any text is a path or a name; the builders know the names.
FREE_TEXTS = {
    "OUTPUT_DIR",
    "PATHS_CATALOG",
    "LOG.PROJECT",
    "MODEL.WEIGHT",
    "MODEL.BACKBONE.CONV_BODY",
    "DATASETS.DATA_DIR",
}
KEYS = sorted(set(cfg.known_keys()) - FREE_TEXTS - {"DATASETS.CATALOG"})
# The other values ask for another detector, or for what is not built yet.
ONLY_VALUES = {
    "MODEL.META_ARCHITECTURE": ("RetinaNet", "OneStageDetector", ""),
    "MODEL.RPN_ONLY": (False,),
    "MODEL.FCOS_ON": (False,),
    "MODEL.RETINANET_ON": (True,),
    "MODEL.MASK_ON": (True,),
    "MODEL.KEYPOINT_ON": (True,),
    "MODEL.CLS_AGNOSTIC_BBOX_REG": (True,),
    "MODEL.RETINANET.USE_C5": (True,),
}
NAN, INFINITE = float("nan"), float("inf")
OUT_OF_RANGE = {
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": (6, 1.5),
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": (0, -32, 100),
    "MODEL.HRNET.FPN.OUT_CHANNEL": (0, -32, 100),
    "MODEL.FCOS.TARGET_ASSIGN": ([[64, -1]] * 5, [[0, INFINITE]] * 5, [["a", "b"]] * 5),
    "MODEL.FCOS.INFERENCE_TH": (1.0,),
    "MODEL.FCOS.NMS_TH": (60.0,),
    "INPUT.MIN_SIZE_RANGE_TRAIN": ((-1, 800), (-5, 800)),
    "INPUT.PIXEL_STD": ([1.0, -1.0, 1.0], [1.0, NAN, 1.0]),
    "DATASETS.TRAIN": ("coco", (["coco"],)),
    "SOLVER.MAX_ITER": (0, 2**31),
    "SOLVER.STEPS": ((-3, 5), (10.0,)),
    "SOLVER.MOMENTUM": (1.0,),
    "TEST.EXPECTED_RESULTS": ([["bbox", "AP", NAN, 0.1]], ["bbox"], [["bbox", "AP", 0.3]]),
}


def get(config, key):
    for name in key.split("."):
        config = config[name]
    return config


def set_key(config, key, value):
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    config[name] = value


def refused(key, value):
    config = cfg.clone()
    set_key(config, key, value)
    with pytest.raises(InputError, match=rf"^{key} is .*: write "):
        check_values(config)


def test_defaults_pass():
    check_values(cfg.clone())


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_rule_for_wrong_types(key):
    refused(key, None)
    default = get(cfg, key)
    if isinstance(default, bool):
        refused(key, "False")
    elif isinstance(default, (int, float)):
        refused(key, "3")
    elif isinstance(default, (list, tuple)):
        refused(key, (None,))


@pytest.mark.parametrize("key", [key for key in KEYS if type(get(cfg, key)) in (int, float)])
@pytest.mark.parametrize("value", [-5, NAN, INFINITE, -INFINITE, True])
def test_no_number_is_negative_or_without_end(key, value):
    refused(key, value)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for table in (ONLY_VALUES, OUT_OF_RANGE) for key in table for value in table[key]]
)
def test_values_that_no_detector_can_have(key, value):
    refused(key, value)


@pytest.mark.parametrize(
    ("key", "value", "other", "other_value"),
    [
        ("MODEL.FCOS.USE_DCN_IN_TOWER", True, "MODEL.FCOS.NUM_CONVS", 0),
        ("MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True), "MODEL.BACKBONE.CONV_BODY", "HRNET-W18"),
        ("MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True), "MODEL.BACKBONE.CONV_BODY", "MNV2-FPN-RETINANET"),
        ("MODEL.RESNETS.DEFORMABLE_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 40),
    ],
)
def test_an_option_that_would_have_no_effect_or_fail_later(key, value, other, other_value):
    config = cfg.clone()
    set_key(config, key, value)
    check_values(config)
    set_key(config, other, other_value)
    with pytest.raises(InputError, match=rf"^{key} is .*: write "):
        check_values(config)


def test_published_expected_results_pass():
    for entry in (["bbox", "AP", 0.377, 0.002], ["bbox", "AP", [0.377, 0.002]]):
        config = cfg.clone()
        config.TEST.EXPECTED_RESULTS = [entry]
        check_values(config)


def test_rules_are_for_keys_that_exist():
    assert set(RULES) <= set(cfg.known_keys())
