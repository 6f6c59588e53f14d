"""Conventions that published detectors were trained under, and a check that a config has those of its weights.

The names are those of the YAML files in configs/zoo, which set the same values; of an ImageNet body, in configs/fcos.
"""

import logging
from collections.abc import Mapping
from typing import Any

from fcos_core.config import Config
from fcos_core.config.dumped import config_values
from fcos_core.errors import InputError
from fcos_core.utils.text import printable

# This project's conventions: the keys whose values change the boxes that given weights compute, and their defaults.
CONVENTION_DEFAULTS: dict[str, Any] = {
    "INPUT.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "INPUT.PIXEL_STD": [1.0, 1.0, 1.0],
    "INPUT.TO_BGR255": True,
    "INPUT.RESIZE": "fcos",
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.FCOS.NORM_REG_TARGETS": False,
    "MODEL.FCOS.CENTERNESS_ON_REG": False,
    "MODEL.FCOS.LOCATIONS": "center",
    "MODEL.FCOS.CANDIDATES": "class",
    "MODEL.FCOS.INFERENCE_TH": 0.05,
    "MODEL.FCOS.SCORE": "product",
    "MODEL.FCOS.RANK_BY": "score",
    "MODEL.FCOS.NMS_TH": 0.6,
    "MODEL.FCOS.CLIP": "before_nms",
    "MODEL.FCOS.PIXELS": "inclusive",
    "MODEL.FCOS.DROP_EMPTY": False,
}
IMAGENET_RESNET = "imagenet_resnet"
IMAGENET_HRNET = "fcos_hrnet_w*_imagenet"

_STRIDE_IN_3X3 = {"MODEL.RESNETS.STRIDE_IN_1X1": False}
_RGB = {"INPUT.TO_BGR255": False, "INPUT.PIXEL_MEAN": [0.485, 0.456, 0.406], "INPUT.PIXEL_STD": [0.229, 0.224, 0.225]}
_BGR_MEAN = {"INPUT.PIXEL_MEAN": [103.53, 116.28, 123.675]}
_SQRT = {"MODEL.FCOS.SCORE": "sqrt"}
# Later FCOS: distances in strides, centerness beside them.
_IMPROVED = {"MODEL.FCOS.NORM_REG_TARGETS": True, "MODEL.FCOS.CENTERNESS_ON_REG": True}
_CONTINUOUS = {"MODEL.FCOS.PIXELS": "continuous"}
_ADELAIDET = {
    **_BGR_MEAN,
    **_SQRT,
    **_IMPROVED,
    **_CONTINUOUS,
    "INPUT.RESIZE": "detectron2",
    "MODEL.FCOS.CLIP": "after_nms",
    "MODEL.FCOS.DROP_EMPTY": True,
}
_MMDET = {
    **_CONTINUOUS,
    "INPUT.RESIZE": "mmdet",
    "MODEL.FCOS.RANK_BY": "class",
    "MODEL.FCOS.NMS_TH": 0.5,
    "MODEL.FCOS.DROP_EMPTY": True,
}
_MMDET_HRNET = {**_MMDET, **_BGR_MEAN, "INPUT.PIXEL_STD": [57.375, 57.12, 58.395]}
_MMDET_TRICKS = {**_MMDET, **_BGR_MEAN, **_IMPROVED, "MODEL.FCOS.NMS_TH": 0.6}
_TORCHVISION = {
    **_RGB,
    **_STRIDE_IN_3X3,
    **_SQRT,
    **_IMPROVED,
    **_CONTINUOUS,
    "INPUT.RESIZE": "torchvision",
    "MODEL.FCOS.LOCATIONS": "corner",
    "MODEL.FCOS.CANDIDATES": "score",
    "MODEL.FCOS.INFERENCE_TH": 0.2,
}
_RESNETS = {
    "R_50_FPN_1x": {},
    "R_101_FPN_2x": {},
    "X_101_32x8d_FPN_2x": _STRIDE_IN_3X3,
    "X_101_64x4d_FPN_2x": _STRIDE_IN_3X3,
}

# Name to the keys whose values are not this project's; for an ImageNet body, to the keys that matter.
CONVENTIONS: dict[str, dict[str, Any]] = {
    **{f"fcos_{name}": {**_SQRT, **stride} for name, stride in _RESNETS.items()},
    **{f"fcos_imprv_{name}": {**_SQRT, **_IMPROVED, **stride} for name, stride in _RESNETS.items()},
    **{f"fcos_imprv_dcnv2_{name}": {**_SQRT, **_IMPROVED, **stride} for name, stride in _RESNETS.items()},
    **{f"fcos_{name}_MNV2_FPN_1x": _SQRT for name in ("syncbn_bs32_c128", "syncbn_bs32", "bn_bs16")},
    **{f"adelaidet_fcos_{name}": _ADELAIDET for name in ("R_50_1x", "MS_R_50_2x", "MS_R_101_2x", "R_50_1x_iou")},
    **{f"mmdet_fcos_hrnetv2p_{width}": _MMDET_HRNET for width in ("w18", "w32", "w40")},
    **{f"mmdet_fcos_{name}_caffe": _MMDET for name in ("r50", "r101")},
    **{f"mmdet_fcos_r50_caffe_{name}": _MMDET_TRICKS for name in ("tricks", "dcn")},
    "mmdet_fcos_x101_64x4d": {**_MMDET, **_RGB, **_STRIDE_IN_3X3},
    "torchvision_fcos_resnet50_fpn": _TORCHVISION,
    IMAGENET_RESNET: {**_RGB, **_STRIDE_IN_3X3},
    IMAGENET_HRNET: _RGB,
}


# The keys of a run's own file that the weights themselves depend on; the others are choices of a test.
_LEARNT = (
    "INPUT.PIXEL_MEAN",
    "INPUT.PIXEL_STD",
    "INPUT.TO_BGR255",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.FCOS.NORM_REG_TARGETS",
    "MODEL.FCOS.CENTERNESS_ON_REG",
    "MODEL.FCOS.LOCATIONS",
    "MODEL.FCOS.PIXELS",
)


def check_own_conventions(cfg: Config, text: str, source: str, logger: logging.Logger) -> None:
    """Warn if a config has other conventions than that of the run which wrote `source`, whose YAML text is `text`."""
    try:
        values = config_values(text)
    except ValueError:  # another program's text, which says nothing about the keys
        return
    if needed := _settings({key: values[key] for key in _LEARNT if key in values}, cfg):
        logger.warning(
            "This config does not have the conventions that '%s' was trained under, so its results will not be those "
            "of its training: set %s.",
            source,
            ", ".join(needed.values()),
        )


def check_conventions(cfg: Config, name: str, source: str, logger: logging.Logger) -> None:
    """Compare a config with the conventions `name`, which the weights in `source` were trained under.

    Raise InputError if an ImageNet ResNet would compute wrong features; warn of any other difference.
    """
    is_body = name in (IMAGENET_RESNET, IMAGENET_HRNET)
    expected = CONVENTIONS[name] if is_body else {**CONVENTION_DEFAULTS, **CONVENTIONS[name]}
    differing = _settings(expected, cfg)
    needed = ", ".join(differing.values())
    if name == IMAGENET_RESNET and not differing.keys().isdisjoint(("MODEL.RESNETS.STRIDE_IN_1X1", "INPUT.TO_BGR255")):
        raise InputError(
            f"'{source}' is a ResNet of torchvision or timm, whose stride is in the 3x3 convolution and whose input is "
            f"RGB from 0 to 1; with this config its features would be wrong. Set {needed}."
        )
    if differing:
        file = f"configs/{'fcos' if is_body else 'zoo'}/{name}.yaml"
        logger.warning(
            "This config does not have the conventions that '%s' was trained under, so its results will not be those "
            "that its authors publish: %sset %s.",
            source,
            "" if name == IMAGENET_RESNET else f"use {file}, or ",
            needed,
        )


def _settings(expected: Mapping[str, Any], cfg: Config) -> dict[str, str]:
    """Return each key whose value in `cfg` is not the expected one, and the words that set it on a command line."""
    return {
        key: printable(f"{key} {_text(value)}") for key, value in expected.items() if not _same(_value(cfg, key), value)
    }


def _value(cfg: Config, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _same(value: Any, expected: Any) -> bool:
    return (list(value) if isinstance(value, tuple) else value) == expected


def _text(value: Any) -> str:
    """Write a value as the command line takes it."""
    return f'"({", ".join(map(str, value))})"' if isinstance(value, (list, tuple)) else str(value)
