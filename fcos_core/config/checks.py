"""Check the values of the configuration; the table RULES lists every rule."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from fcos_core.config.node import Config
from fcos_core.errors import require

TRAINING_PRECISIONS = ("float32", "bfloat16", "float16")
INFERENCE_PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
WARMUP_METHODS = ("constant", "linear")
EVALUATORS = ("pycocotools", "faster_coco_eval")
# In the order of pycocotools' COCOeval.stats.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class Rule(NamedTuple):
    """A condition on the value of one key."""

    holds: Callable[[Any, Config], bool]  # takes the value and the whole config
    wanted: str  # completes the sentence "KEY is VALUE: write ..."


def check_values(cfg: Config) -> None:
    """Check every value that has a rule, because a wrong value would fail much later or change results silently.

    Raise InputError, with the key, its value and a value to write instead, if a value cannot be used.
    """
    for key, rule in RULES.items():
        value = cfg
        for name in key.split("."):
            value = value[name]
        try:
            holds = rule.holds(value, cfg)
        except (TypeError, ValueError, OverflowError):  # a script set the key to a value of another type
            holds = False
        require(holds, key, value, rule.wanted)


def _rule(holds: Callable[[Any], bool], wanted: str) -> Rule:
    return Rule(lambda value, _: holds(value), wanted)


def _at_least(least: float, unit: str = "") -> Rule:
    return _rule(lambda value: _is_number(value) and value >= least, f"{least} or more{unit}")


def _integer(least: int, unit: str = "", most: int = 2**31 - 1) -> Rule:
    """Make a rule for integers from `least`; no number of iterations, images or pixels is above `most`."""
    return _rule(
        lambda value: _are_integers([value]) and least <= value <= most,
        f"an integer, {least} or more{unit} (at most {most})",
    )


def _between(least: float, most: float, wanted: str) -> Rule:
    return _rule(lambda value: _is_number(value) and least <= value <= most, wanted)


def _only(value: Any, reason: str) -> Rule:
    return _rule(lambda other: type(other) is type(value) and other == value, f"{value}. {reason}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(choices: tuple[str, ...]) -> Rule:
    return _rule(lambda value: value in choices, f"one of {', '.join(choices)}")


def _are_integers(values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _are_increasing(values: Any) -> bool:
    return _are_integers(values) and list(values) == sorted(values) and min(values, default=0) >= 0


def _is_channels(value: Any) -> bool:
    return _are_positive_integers([value]) and value % 32 == 0


def _are_three_numbers(values: Any) -> bool:
    return len(values) == 3 and all(map(_is_number, values))


def _are_positive_integers(values: Any) -> bool:
    return len(values) > 0 and _are_integers(values) and min(values) >= 1 and max(values) < 2**31


def _are_four_stages(values: Any) -> bool:
    return len(values) == 4 and _are_positive_integers(values)


def _grow_by_one(values: Any) -> bool:
    return _are_four_stages(values) and values[0] == 1 and all(b - a in (0, 1) for a, b in pairwise(values))


def _is_size_range(values: Any) -> bool:
    return len(values) == 2 and _are_integers(values) and (tuple(values) == (-1, -1) or 1 <= values[0] <= values[1])


def _are_ranges(values: Any, cfg: Config) -> bool:
    pairs = all(isinstance(limits, (list, tuple)) and len(limits) == 2 for limits in values)
    return not values or (pairs and len(values) == len(cfg.MODEL.FCOS.FPN_STRIDES) and all(map(_is_range, values)))


def _is_range(limits: Any) -> bool:
    return all(map(_is_number, limits)) and limits[0] < limits[1]


def _are_expected_results(rows: Any) -> bool:
    """Check ("bbox", metric, mean, deviation); published scripts write mean and deviation as a pair."""
    return all(
        isinstance(row, (list, tuple)) and len(row) >= 3 and _are_texts(row[:2]) and _are_two_numbers(row[2:])
        for row in rows
    )


def _are_texts(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)


def _are_two_numbers(values: Any) -> bool:
    values = values[0] if len(values) == 1 else values
    return len(values) == 2 and all(map(_is_number, values))


def trains_batch_norm(cfg: Config) -> bool:
    """Return True if the backbone has BatchNorms that use and update batch statistics in training."""
    return bool(cfg.MODEL.SYNCBN or cfg.MODEL.USE_SYNCBN or cfg.MODEL.HRNET.TRAIN_BN or _is_mobilenet(cfg))


def _is_mobilenet(cfg: Config) -> bool:
    return bool(cfg.MODEL.BACKBONE.CONV_BODY == "MNV2-FPN-RETINANET")


def _mirrors_nothing(cfg: Config) -> bool:
    return bool(cfg.TEST.BBOX_AUG.ENABLED and not cfg.TEST.BBOX_AUG.SCALES)


# What the keys under "Accepted" in defaults.py would ask for.
_NO_OTHER_DETECTOR = "Only FCOS is built here: no other detector, no masks and no keypoints"

# The text "False", which a script may have read from somewhere, would count as True.
_SWITCHES = (
    "MODEL.SYNCBN",
    "MODEL.USE_SYNCBN",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.RESNETS.WITH_MODULATED_DCN",
    "MODEL.HRNET.TRAIN_BN",
    "MODEL.FCOS.NORM_REG_TARGETS",
    "MODEL.FCOS.CENTERNESS_ON_REG",
    "MODEL.FCOS.DROP_EMPTY",
    "INPUT.TO_BGR255",
    "DATALOADER.ASPECT_RATIO_GROUPING",
    "DATALOADER.PAD_TO_FIXED_SIZE",
    "DATALOADER.KEEP_EMPTY_IMAGES",
    "DATALOADER.SKIP_UNREADABLE",
    "DATASETS.FEWER_CATEGORIES",
    "DATALOADER.CHECK_IMAGES",
    "SOLVER.CHANNELS_LAST",
    "SOLVER.COMPILE",
    "TEST.COMPILE",
    "TEST.USE_EMA",
    "TEST.REPORT",
    "TEST.BBOX_AUG.ENABLED",
    "TEST.BBOX_AUG.H_FLIP",
)

RULES: dict[str, Rule] = {
    "SEED": _integer(0, most=2**63 - 1),
    "DISTRIBUTED.TIMEOUT": _rule(lambda seconds: _is_number(seconds) and 0 < seconds < 2**31, "seconds, more than 0"),
    "MODEL.DEVICE": _rule(
        lambda name: isinstance(name, str) and (name == "cpu" or name.partition(":")[0] == "cuda"), "cpu or cuda"
    ),
    # Activation checkpointing runs a stage twice, so a BatchNorm that is trained would track its statistics twice.
    "MODEL.BACKBONE.CHECKPOINT_STAGES": Rule(
        lambda stages, cfg: all(stage in (1, 2, 3, 4) for stage in stages) and not (stages and trains_batch_norm(cfg)),
        "stages of 1 to 4, such as (2, 3, 4), or () if BatchNorms are trained (SYNCBN, TRAIN_BN, MobileNetV2)",
    ),
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": Rule(
        lambda parts, cfg: _are_integers([parts]) and -1 <= parts <= (18 if _is_mobilenet(cfg) else 5),
        "an integer from -1 to the number of parts: 5 of a ResNet, 18 of MobileNetV2",
    ),
    "MODEL.RESNETS.NUM_GROUPS": _integer(1),
    "MODEL.RESNETS.WIDTH_PER_GROUP": _integer(1),
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": _rule(_is_channels, "a multiple of 32, the groups of the norms"),
    "MODEL.RESNETS.STAGE_WITH_DCN": Rule(
        lambda stages, cfg: (
            len(stages) == 4
            and all(isinstance(stage, bool) for stage in stages)
            and not (any(stages) and cfg.MODEL.BACKBONE.CONV_BODY.startswith(("HRNET", "MNV2", "timm:")))
        ),
        "four times True or False, one for each stage; True only for a ResNet, as other bodies have no such layers "
        "(their towers can: MODEL.FCOS.USE_DCN_IN_TOWER)",
    ),
    "MODEL.RESNETS.DEFORMABLE_GROUPS": Rule(
        lambda groups, cfg: (
            _are_positive_integers([groups])
            and cfg.MODEL.RESNETS.NUM_GROUPS * cfg.MODEL.RESNETS.WIDTH_PER_GROUP % groups == 0
        ),
        "an integer of at least 1 that divides NUM_GROUPS * WIDTH_PER_GROUP, the channels that share offsets",
    ),
    "MODEL.HRNET.WIDTH": _integer(0),
    "MODEL.HRNET.STEM_CHANNELS": _integer(1),
    "MODEL.HRNET.STAGE1_CHANNELS": _integer(1),
    "MODEL.HRNET.NUM_MODULES": _rule(_are_four_stages, "four positive integers, one for each stage"),
    "MODEL.HRNET.NUM_BLOCKS": _rule(_are_four_stages, "four positive integers, one for each stage"),
    "MODEL.HRNET.NUM_BRANCHES": _rule(
        _grow_by_one, "four integers that start at 1 and grow by at most 1 from stage to stage"
    ),
    "MODEL.HRNET.FPN.TYPE": _one_of(("HRFPN",)),
    "MODEL.HRNET.FPN.OUT_CHANNEL": _rule(_is_channels, "a multiple of 32, the groups of the norms"),
    "MODEL.HRNET.FPN.CONV_STRIDE": _integer(1, most=2),
    "MODEL.FCOS.NUM_CLASSES": _rule(
        lambda classes: _are_positive_integers([classes]) and classes >= 2,
        "an integer, 2 or more, because it counts the background (0: tools/ take it from the dataset)",
    ),
    "MODEL.FCOS.FPN_STRIDES": _rule(_are_positive_integers, "the strides of 5 or 6 levels"),
    "MODEL.FCOS.TARGET_ASSIGN": Rule(
        _are_ranges,
        "5 pairs (lowest, highest) for 5 levels of FPN_STRIDES, 6 pairs for 6 levels, or [] for the published ranges",
    ),
    "MODEL.FCOS.NUM_CONVS": _integer(0),
    "MODEL.FCOS.USE_DCN_IN_TOWER": Rule(
        lambda deforms, cfg: deforms in (True, False) and not (deforms and cfg.MODEL.FCOS.NUM_CONVS == 0),
        "False, or True with MODEL.FCOS.NUM_CONVS of 1 or more",
    ),
    "MODEL.FCOS.PRIOR_PROB": _rule(lambda prob: _is_number(prob) and 0 < prob < 1, "a probability between 0 and 1"),
    "MODEL.FCOS.LOSS_GAMMA": _at_least(0),
    "MODEL.FCOS.LOSS_ALPHA": _between(0, 1, "0 to 1"),
    "MODEL.FCOS.INFERENCE_TH": _rule(lambda prob: _is_number(prob) and 0 <= prob < 1, "a probability below 1"),
    "MODEL.FCOS.NMS_TH": _between(0, 1, "an IoU from 0 to 1"),
    "MODEL.FCOS.PRE_NMS_TOP_N": _integer(1),
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": _at_least(0),
    "MODEL.FCOS.IOU_LOSS_TYPE": _one_of(("iou", "linear_iou", "giou", "diou", "ciou")),
    "MODEL.FCOS.BOX_QUALITY": _one_of(("ctrness", "iou")),
    "MODEL.FCOS.LOSS_NORMALIZER": _one_of(("positives_and_images", "positives")),
    "MODEL.FCOS.SCORE": _one_of(("product", "sqrt")),
    "MODEL.FCOS.CANDIDATES": _one_of(("class", "score")),
    "MODEL.FCOS.RANK_BY": _one_of(("score", "class")),
    "MODEL.FCOS.LOCATIONS": _one_of(("center", "corner")),
    "MODEL.FCOS.PIXELS": _one_of(("inclusive", "continuous")),
    "MODEL.FCOS.CLIP": _one_of(("before_nms", "after_nms")),
    "INPUT.MIN_SIZE_TRAIN": _rule(_are_positive_integers, "one or more integers of at least 1"),
    "INPUT.MIN_SIZE_RANGE_TRAIN": _rule(_is_size_range, "(lowest, highest), or (-1, -1) to use MIN_SIZE_TRAIN"),
    "INPUT.MAX_SIZE_TRAIN": _integer(1),
    "INPUT.MIN_SIZE_TEST": _integer(1),
    "INPUT.MAX_SIZE_TEST": _integer(1),
    "INPUT.RESIZE": _one_of(("fcos", "detectron2", "mmdet", "torchvision")),
    "INPUT.MAX_PIXELS": _integer(1),
    "INPUT.FLIP_PROB_TRAIN": _between(0, 1, "a probability from 0 to 1"),
    **dict.fromkeys(
        (
            "INPUT.AUG.VERTICAL_FLIP_PROB",
            "INPUT.AUG.ZOOM_OUT_PROB",
            "INPUT.AUG.IOU_CROP_PROB",
            "INPUT.AUG.PHOTOMETRIC_PROB",
            "INPUT.AUG.MOSAIC_PROB",
            "INPUT.AUG.MIXUP_PROB",
            "INPUT.AUG.COPY_RARE_PROB",
            "INPUT.AUG.MOSAIC_OFF_SHARE",
        ),
        _between(0, 1, "a number from 0 to 1"),
    ),
    "INPUT.AUG.SCALE_RANGE": _rule(
        lambda factors: len(factors) == 2 and all(map(_is_number, factors)) and 0 < factors[0] <= factors[1] <= 10,
        "(lowest, highest), factors above 0, at most 10; (1, 1) for no jitter",
    ),
    "INPUT.AUG.ZOOM_OUT_MAX": _between(1, 10, "a ratio from 1 to 10"),
    "INPUT.PIXEL_MEAN": _rule(_are_three_numbers, "three numbers"),
    "INPUT.PIXEL_STD": _rule(lambda std: _are_three_numbers(std) and min(std) > 0, "three numbers above 0"),
    "DATASETS.TRAIN": _rule(_are_texts, "names of datasets, such as ('coco_2017_train',)"),
    "DATASETS.TEST": _rule(_are_texts, "names of datasets, such as ('coco_2017_val',)"),
    "DATASETS.LABEL_ORDER": _one_of(("id", "file")),
    "DATALOADER.NUM_WORKERS": _integer(0),
    "DATALOADER.SIZE_DIVISIBILITY": _rule(
        lambda step: _are_positive_integers([step]) and step % 32 == 0,
        "a multiple of 32; 32 is the least that the networks can take",
    ),
    "SOLVER.MAX_ITER": _rule(
        lambda last: _are_positive_integers([last]),
        "an integer, 1 or more (0: tools/ derive it from the dataset)",
    ),
    "SOLVER.ITER_FACTOR": _rule(lambda factor: _is_number(factor) and 0 < factor <= 1e6, "a factor above 0"),
    "SOLVER.SCHEDULE": _one_of(("steps", "cosine")),
    "SOLVER.BASE_LR": _at_least(0),
    "SOLVER.BIAS_LR_FACTOR": _at_least(0),
    "SOLVER.WEIGHT_DECAY": _at_least(0),
    "SOLVER.WEIGHT_DECAY_BIAS": _at_least(0),
    "SOLVER.MOMENTUM": _rule(lambda momentum: _is_number(momentum) and 0 <= momentum < 1, "0, or a number below 1"),
    "SOLVER.GAMMA": _at_least(0),
    "SOLVER.STEPS": _rule(_are_increasing, "iterations in increasing order"),
    "SOLVER.WARMUP_FACTOR": _at_least(0),
    "SOLVER.WARMUP_ITERS": _integer(0),
    "SOLVER.WARMUP_METHOD": _one_of(WARMUP_METHODS),
    "SOLVER.CHECKPOINT_PERIOD": _integer(1),
    "SOLVER.CHECKPOINT_KEEP_LAST": _integer(0),
    "SOLVER.LOG_PERIOD": _integer(1),
    "SOLVER.IMS_PER_BATCH": _integer(1),
    "SOLVER.ACCUMULATE_STEPS": _integer(1),
    "SOLVER.PRECISION": _one_of(TRAINING_PRECISIONS),
    "SOLVER.CLIP_GRADIENT_NORM": _at_least(0),
    "SOLVER.EMA_DECAY": _rule(
        lambda decay: _is_number(decay) and 0 <= decay < 1, "0, or a number below 1 such as 0.9998"
    ),
    "SOLVER.DCONV_OFFSETS_LR_FACTOR": _at_least(0),
    "TEST.IMS_PER_BATCH": _integer(1),
    "TEST.PRECISION": Rule(
        lambda precision, cfg: precision == "float32" or (precision in INFERENCE_PRECISIONS and cfg.TEST.COMPILE),
        f"float32, or set TEST.COMPILE True and write one of {', '.join(INFERENCE_PRECISIONS[1:])}",
    ),
    "TEST.DETECTIONS_PER_IMG": _integer(1),
    "TEST.EVAL_PERIOD": _integer(0),
    "TEST.BEST_METRIC": _rule(
        lambda metric: metric in ("", *METRICS), f"one of {', '.join(METRICS)}, or '' to save no best model"
    ),
    "TEST.EVALUATOR": _one_of(EVALUATORS),
    **dict.fromkeys(_SWITCHES, _rule(lambda value: value in (True, False), "True or False")),
    "LOG.TRACKERS": _rule(
        lambda names: _are_texts(names) and set(names) <= {"wandb", "mlflow"}, "names of trackers: 'wandb', 'mlflow'"
    ),
    "LOG.PROJECT": _rule(lambda name: isinstance(name, str) and bool(name.strip()), "a name"),
    "TEST.EXPECTED_RESULTS": _rule(_are_expected_results, 'entries such as ["bbox", "AP", 0.377, 0.002]'),
    "TEST.EXPECTED_RESULTS_SIGMA_TOL": _at_least(0),
    "TEST.BBOX_AUG.SCALES": _rule(lambda sizes: sizes == () or _are_positive_integers(sizes), "integers of at least 1"),
    "TEST.BBOX_AUG.MAX_SIZE": _integer(1),
    "TEST.BBOX_AUG.SCALE_H_FLIP": Rule(
        lambda flip, cfg: flip in (True, False) and not (flip and _mirrors_nothing(cfg)),
        "False, or True with the sizes to mirror in TEST.BBOX_AUG.SCALES",
    ),
    "TEST.BBOX_AUG.MERGE_TYPE": _one_of(("nms", "soft-vote")),
    "TEST.BBOX_AUG.VOTE_TH": _rule(lambda iou: _is_number(iou) and 0 < iou <= 1, "an IoU above 0, at most 1"),
    "MODEL.META_ARCHITECTURE": _only("GeneralizedRCNN", _NO_OTHER_DETECTOR),
    "MODEL.RPN_ONLY": _only(True, _NO_OTHER_DETECTOR),
    "MODEL.FCOS_ON": _only(True, _NO_OTHER_DETECTOR),
    "MODEL.RETINANET_ON": _only(False, _NO_OTHER_DETECTOR),
    "MODEL.MASK_ON": _only(False, _NO_OTHER_DETECTOR),
    "MODEL.KEYPOINT_ON": _only(False, _NO_OTHER_DETECTOR),
    "MODEL.CLS_AGNOSTIC_BBOX_REG": _only(False, _NO_OTHER_DETECTOR),
    "MODEL.RETINANET.USE_C5": _only(False, "P6 is always computed from P5"),
}
