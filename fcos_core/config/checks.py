"""Check the values of the configuration; the table RULES lists every rule."""

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
        require(rule.holds(value, cfg), key, value, rule.wanted)


def _rule(holds: Callable[[Any], bool], wanted: str) -> Rule:
    return Rule(lambda value, _: holds(value), wanted)


def _at_least(least: float, unit: str = "") -> Rule:
    return _rule(lambda value: value >= least, f"{least} or more{unit}")


def _one_of(choices: tuple[str, ...]) -> Rule:
    return _rule(lambda value: value in choices, f"one of {', '.join(choices)}")


def _are_integers(values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _are_three_numbers(values: Any) -> bool:
    return len(values) == 3 and all(isinstance(value, (int, float)) for value in values)


def _are_positive_integers(values: Any) -> bool:
    return len(values) > 0 and _are_integers(values) and min(values) >= 1


def _are_four_stages(values: Any) -> bool:
    return len(values) == 4 and _are_positive_integers(values)


def _grow_by_one(values: Any) -> bool:
    return _are_four_stages(values) and values[0] == 1 and all(b - a in (0, 1) for a, b in pairwise(values))


def _is_size_range(values: Any) -> bool:
    return len(values) == 2 and _are_integers(values) and (values[0] == -1 or 1 <= values[0] <= values[1])


def _are_ranges(values: Any, cfg: Config) -> bool:
    pairs = all(isinstance(limits, (list, tuple)) and len(limits) == 2 for limits in values)
    return not values or (pairs and len(values) == len(cfg.MODEL.FCOS.FPN_STRIDES))


def _trains_batch_norm(cfg: Config) -> bool:
    return bool(cfg.MODEL.SYNCBN or cfg.MODEL.HRNET.TRAIN_BN)


RULES: dict[str, Rule] = {
    "SEED": _at_least(0),
    "DISTRIBUTED.TIMEOUT": _rule(lambda seconds: seconds > 0, "seconds, more than 0"),
    "MODEL.DEVICE": _rule(lambda name: name == "cpu" or name.partition(":")[0] == "cuda", "cpu or cuda"),
    # Activation checkpointing runs a stage twice, so a BatchNorm that is trained would track its statistics twice.
    "MODEL.BACKBONE.CHECKPOINT_STAGES": Rule(
        lambda stages, cfg: all(stage in (1, 2, 3, 4) for stage in stages) and not (stages and _trains_batch_norm(cfg)),
        "stages of 1 to 4, such as (2, 3, 4), or () if BatchNorms are trained (SYNCBN, TRAIN_BN)",
    ),
    "MODEL.HRNET.STEM_CHANNELS": _at_least(1),
    "MODEL.HRNET.STAGE1_CHANNELS": _at_least(1),
    "MODEL.HRNET.NUM_MODULES": _rule(_are_four_stages, "four positive integers, one for each stage"),
    "MODEL.HRNET.NUM_BLOCKS": _rule(_are_four_stages, "four positive integers, one for each stage"),
    "MODEL.HRNET.NUM_BRANCHES": _rule(
        _grow_by_one, "four integers that start at 1 and grow by at most 1 from stage to stage"
    ),
    "MODEL.HRNET.FPN.TYPE": _one_of(("HRFPN",)),
    "MODEL.HRNET.FPN.CONV_STRIDE": _rule(lambda stride: stride in (1, 2), "1 or 2"),
    "MODEL.FCOS.NUM_CLASSES": _at_least(2, ", because it counts the background"),
    "MODEL.FCOS.TARGET_ASSIGN": Rule(
        _are_ranges, "5 pairs for 5 levels of FPN_STRIDES, 6 pairs for 6 levels, or [] for the published ranges"
    ),
    "MODEL.FCOS.NUM_CONVS": _at_least(0),
    "MODEL.FCOS.PRIOR_PROB": _rule(lambda prob: 0 < prob < 1, "a probability between 0 and 1"),
    "MODEL.FCOS.LOSS_GAMMA": _at_least(0),
    "MODEL.FCOS.LOSS_ALPHA": _rule(lambda alpha: 0 <= alpha <= 1, "0 to 1"),
    "MODEL.FCOS.NMS_TH": _at_least(0),
    "MODEL.FCOS.PRE_NMS_TOP_N": _at_least(1),
    "INPUT.MIN_SIZE_TRAIN": _rule(_are_positive_integers, "one or more integers of at least 1"),
    "INPUT.MIN_SIZE_RANGE_TRAIN": _rule(_is_size_range, "(lowest, highest), or (-1, -1) to use MIN_SIZE_TRAIN"),
    "INPUT.MAX_SIZE_TRAIN": _at_least(1),
    "INPUT.MIN_SIZE_TEST": _at_least(1),
    "INPUT.MAX_SIZE_TEST": _at_least(1),
    "INPUT.FLIP_PROB_TRAIN": _rule(lambda prob: 0 <= prob <= 1, "a probability from 0 to 1"),
    "INPUT.PIXEL_MEAN": _rule(_are_three_numbers, "three numbers"),
    "INPUT.PIXEL_STD": _rule(lambda std: _are_three_numbers(std) and all(std), "three numbers other than 0"),
    "DATASETS.LABEL_ORDER": _one_of(("id", "file")),
    "DATALOADER.NUM_WORKERS": _at_least(0),
    "DATALOADER.SIZE_DIVISIBILITY": _rule(
        lambda step: step >= 32 and step % 32 == 0, "a multiple of 32; 32 is the least that the networks can take"
    ),
    "SOLVER.BASE_LR": _at_least(0),
    "SOLVER.BIAS_LR_FACTOR": _at_least(0),
    "SOLVER.WEIGHT_DECAY": _at_least(0),
    "SOLVER.WEIGHT_DECAY_BIAS": _at_least(0),
    "SOLVER.MOMENTUM": _at_least(0),
    "SOLVER.STEPS": _rule(
        lambda steps: _are_integers(steps) and list(steps) == sorted(steps), "iterations in increasing order"
    ),
    "SOLVER.WARMUP_METHOD": _one_of(WARMUP_METHODS),
    "SOLVER.CHECKPOINT_PERIOD": _at_least(1),
    "SOLVER.CHECKPOINT_KEEP_LAST": _at_least(0),
    "SOLVER.LOG_PERIOD": _at_least(1),
    "SOLVER.ACCUMULATE_STEPS": _at_least(1),
    "SOLVER.PRECISION": _one_of(TRAINING_PRECISIONS),
    "SOLVER.CLIP_GRADIENT_NORM": _at_least(0),
    "SOLVER.EMA_DECAY": _rule(lambda decay: 0 <= decay < 1, "0, or a number below 1 such as 0.9998"),
    "TEST.IMS_PER_BATCH": _at_least(1),
    "TEST.PRECISION": Rule(
        lambda precision, cfg: precision == "float32" or (precision in INFERENCE_PRECISIONS and cfg.TEST.COMPILE),
        f"float32, or set TEST.COMPILE True and write one of {', '.join(INFERENCE_PRECISIONS[1:])}",
    ),
    "TEST.DETECTIONS_PER_IMG": _at_least(1),
    "TEST.EVAL_PERIOD": _at_least(0),
    "TEST.BEST_METRIC": _rule(
        lambda metric: metric in ("", *METRICS), f"one of {', '.join(METRICS)}, or '' to save no best model"
    ),
    "TEST.EVALUATOR": _one_of(EVALUATORS),
}
