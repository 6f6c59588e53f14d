"""Weights of other frameworks: recognize them by their keys, and give them the names of this project's models.

Every renaming is a list of (pattern at the start of a key, replacement); the first that matches is applied, and a key
without a match keeps its name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcos_core.weights.weight_matching import BODY

_State = dict[str, Tensor]
_Rule = tuple[str, str | Callable[[re.Match[str]], str]]

# ResNet's FrozenBatchNorm has no epsilon here; that of the other frameworks goes into the variance.
_EPSILON = 1e-5
_FPN = "backbone.fpn."
_HEAD = "rpn.head."
# Rows of torchvision's class layer that are background or a category id that COCO does not use.
_UNUSED_ROWS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


@dataclass(frozen=True)
class Imported:
    """Weights of another framework under this project's names.

    Attributes:
        framework: what the file was recognized as.
        conventions: name of the conventions that it was trained under, a key of `CONVENTIONS`; "": not known.
        state: key to tensor.
    """

    framework: str
    conventions: str
    state: _State


def import_state(state: Mapping[str, Tensor]) -> Imported | None:
    """Rename a file's `state` and adapt its tensors; return None if no other framework's keys are recognized."""
    for recognizes, convert in (
        (_is_mmdet, _from_mmdet),
        (_is_torchvision, _from_torchvision),
        (_is_detectron2, _from_detectron2),
        (_is_imagenet_resnet, _from_imagenet_resnet),
    ):
        if recognizes(state):
            return convert(state)
    return None


def _is_mmdet(state: Mapping[str, Tensor]) -> bool:
    return any(
        {f"bbox_head.{p}_cls.weight", f"bbox_head.{p}_centerness.weight"} <= state.keys() for p in ("conv", "fcos")
    )


def _is_torchvision(state: Mapping[str, Tensor]) -> bool:
    return "head.classification_head.cls_logits.weight" in state and "head.regression_head.bbox_ctrness.weight" in state


def _is_detectron2(state: Mapping[str, Tensor]) -> bool:
    return "proposal_generator.fcos_head.cls_logits.weight" in state


def _is_imagenet_resnet(state: Mapping[str, Tensor]) -> bool:
    if not {"conv1.weight", "bn1.running_mean", "layer4.0.bn1.running_var"} <= state.keys():
        return False
    # Caffe's ResNets, which openmmlab has renamed, have neither a classifier nor statistics.
    return "fc.weight" in state or bool(state["bn1.running_mean"].any())


_RESNET_STEM: list[_Rule] = [(r"backbone\.(?:body\.)?(conv1|bn1)\.", rf"{BODY}stem.\1.")]
_MMDET_HRNET: list[_Rule] = [
    (r"neck\.reduction_conv\.conv\.", f"{_FPN}reduction_conv.0."),
    (r"neck\.fpn_convs\.(\d+)\.conv\.", rf"{_FPN}fpn_conv.\1."),
]
_MMDET_RESNET: list[_Rule] = [
    *_RESNET_STEM,
    (r"neck\.lateral_convs\.(\d+)\.conv\.", lambda match: f"{_FPN}fpn_inner{int(match[1]) + 2}."),
    (r"neck\.fpn_convs\.([0-2])\.conv\.", lambda match: f"{_FPN}fpn_layer{int(match[1]) + 2}."),
    (r"neck\.fpn_convs\.([34])\.conv\.", lambda match: f"{_FPN}top_blocks.p{int(match[1]) + 3}."),
]
_TOWERS = {"cls": "cls_tower", "reg": "bbox_tower"}
_MMDET: list[_Rule] = [
    (r"backbone\.", BODY),
    (
        r"bbox_head\.(cls|reg)_convs\.(\d+)\.(conv|gn)\b",
        lambda match: f"{_HEAD}{_TOWERS[match[1]]}.{3 * int(match[2]) + (match[3] == 'gn')}",
    ),
    (r"bbox_head\.(?:conv|fcos)_cls\.", f"{_HEAD}cls_logits."),
    (r"bbox_head\.(?:conv|fcos)_reg\.", f"{_HEAD}bbox_pred."),
    (r"bbox_head\.(?:conv|fcos)_centerness\.", f"{_HEAD}centerness."),
    (r"bbox_head\.scales\.", f"{_HEAD}scales."),
]


def _from_mmdet(state: Mapping[str, Tensor]) -> Imported:
    is_hrnet = "neck.reduction_conv.conv.weight" in state
    has_biases = "bbox_head.cls_convs.0.conv.bias" in state
    renamed = _renamed(_separate_offsets(state), [*(_MMDET_HRNET if is_hrnet else _MMDET_RESNET), *_MMDET])
    for key in [key for key in renamed if re.fullmatch(r"rpn\.head\.\w+_tower\.\d+\.(conv\.)?weight", key)]:
        # Without a bias in the file, normalization follows, and a bias of zero changes nothing.
        if renamed[key].ndim == 4:
            renamed.setdefault(key.removesuffix("weight") + "bias", renamed[key].new_zeros(len(renamed[key])))
    renamed = {key: value.reshape(1) if key.endswith(".scale") else value for key, value in renamed.items()}
    if is_hrnet:
        width = len(state["backbone.stage4.0.branches.0.0.conv1.weight"])
        published = width if width in (18, 32, 40) else 32  # every width has the same conventions
        return Imported("mmdetection's FCOS with HRNet", f"mmdet_fcos_hrnetv2p_w{published}", renamed)
    if has_biases:
        name = "r50_caffe_dcn" if f"{_HEAD}cls_tower.9.offset.weight" in renamed else "r50_caffe_tricks"
    elif len(state.get("backbone.layer1.0.conv1.weight", ())) > 64:
        name = "x101_64x4d"
    else:
        name = "r101_caffe" if "backbone.layer3.22.conv1.weight" in state else "r50_caffe"
    return Imported("mmdetection's FCOS with ResNet", f"mmdet_fcos_{name}", _resnet_without_epsilon(renamed))


_TORCHVISION: list[_Rule] = [
    *_RESNET_STEM,
    (r"backbone\.fpn\.inner_blocks\.(\d+)(?:\.0)?\.", lambda match: f"{_FPN}fpn_inner{int(match[1]) + 2}."),
    (r"backbone\.fpn\.layer_blocks\.(\d+)(?:\.0)?\.", lambda match: f"{_FPN}fpn_layer{int(match[1]) + 2}."),
    (r"backbone\.fpn\.extra_blocks\.", f"{_FPN}top_blocks."),
    (r"head\.classification_head\.conv\.", f"{_HEAD}cls_tower."),
    (r"head\.regression_head\.conv\.", f"{_HEAD}bbox_tower."),
    (r"head\.classification_head\.cls_logits\.", f"{_HEAD}cls_logits."),
    (r"head\.regression_head\.bbox_reg\.", f"{_HEAD}bbox_pred."),
    (r"head\.regression_head\.bbox_ctrness\.", f"{_HEAD}centerness."),
]


def _from_torchvision(state: Mapping[str, Tensor]) -> Imported:
    renamed = _renamed(state, _TORCHVISION)
    for key in (f"{_HEAD}cls_logits.weight", f"{_HEAD}cls_logits.bias"):
        rows = len(renamed[key])
        unused = _UNUSED_ROWS if rows == 91 else (0,)
        renamed[key] = renamed[key][[row for row in range(rows) if row not in unused]]
    for level in range(5):
        renamed[f"{_HEAD}scales.{level}.scale"] = torch.ones_like(renamed[f"{_HEAD}centerness.bias"])
    return Imported("torchvision's FCOS", "torchvision_fcos_resnet50_fpn", _resnet_without_epsilon(renamed))


def _below(stage: str) -> str:
    """Return the number of detectron2's stage or level `stage` here."""
    return str(int(stage) - 1)


_RES = r"backbone\.bottom_up\.res(\d)\.(\d+)\."
_DETECTRON2: list[_Rule] = [
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.", f"{BODY}stem.bn1."),
    (r"backbone\.bottom_up\.stem\.", f"{BODY}stem."),
    (rf"{_RES}conv(\d)\.norm\.", lambda match: f"{BODY}layer{_below(match[1])}.{match[2]}.bn{match[3]}."),
    (rf"{_RES}shortcut\.norm\.", lambda match: f"{BODY}layer{_below(match[1])}.{match[2]}.downsample.1."),
    (rf"{_RES}shortcut\.", lambda match: f"{BODY}layer{_below(match[1])}.{match[2]}.downsample.0."),
    (_RES, lambda match: f"{BODY}layer{_below(match[1])}.{match[2]}."),
    (r"backbone\.fpn_lateral(\d)\.", lambda match: f"{_FPN}fpn_inner{_below(match[1])}."),
    (r"backbone\.fpn_output(\d)\.", lambda match: f"{_FPN}fpn_layer{_below(match[1])}."),
    (r"backbone\.top_block\.", f"{_FPN}top_blocks."),
    (r"proposal_generator\.fcos_head\.ctrness\.", f"{_HEAD}centerness."),
    (r"proposal_generator\.fcos_head\.", _HEAD),
]


def _from_detectron2(state: Mapping[str, Tensor]) -> Imported:
    wanted = {key: value for key, value in state.items() if key not in ("pixel_mean", "pixel_std")}
    renamed = _renamed(_separate_offsets(wanted), _DETECTRON2)
    name = "adelaidet_fcos_MS_R_101_2x" if f"{BODY}layer3.22.conv1.weight" in renamed else "adelaidet_fcos_R_50_1x"
    # The stride of a ResNeXt is elsewhere, and no YAML file in configs/zoo is for one.
    is_resnext = len(renamed.get(f"{BODY}layer1.0.conv1.weight", ())) > 64
    return Imported("AdelaiDet's FCOS", "" if is_resnext else name, _resnet_without_epsilon(renamed))


def _from_imagenet_resnet(state: Mapping[str, Tensor]) -> Imported:
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    renamed = _renamed(
        {f"backbone.{key}": value for key, value in body.items()}, [*_RESNET_STEM, (r"backbone\.", BODY)]
    )
    return Imported("an ImageNet ResNet of torchvision or timm", "imagenet_resnet", _resnet_without_epsilon(renamed))


def _renamed(state: Mapping[str, Tensor], rules: Sequence[_Rule]) -> _State:
    return {_rename(key, rules): value for key, value in state.items()}


def _rename(key: str, rules: Sequence[_Rule]) -> str:
    for pattern, replacement in rules:
        new, found = re.subn(rf"\A{pattern}", replacement, key, count=1)
        if found:
            return new
    return key


def _separate_offsets(state: Mapping[str, Tensor]) -> _State:
    """Make X.conv and X.offset of a deformable convolution X and of X.conv_offset or X_offset, its offsets."""
    deformable = {match[1] for key in state if (match := re.fullmatch(r"(.*?)(?:\.conv)?_offset\.weight", key))}
    separated = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition(".")
        offsets_of = re.sub(r"(\.conv)?_offset$", "", layer)
        if layer in deformable:
            key = f"{layer}.conv.{parameter}"
        elif offsets_of != layer and offsets_of in deformable:
            key = f"{offsets_of}.offset.{parameter}"
        separated[key] = value
    return separated


def _resnet_without_epsilon(state: _State) -> _State:
    """Add the epsilon of the other frameworks' BatchNorms to the variances of a ResNet body; drop the counters."""
    return {
        key: _with_epsilon(value) if key.startswith(BODY) and key.endswith("running_var") else value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def _with_epsilon(variance: Tensor) -> Tensor:
    # In float16 the sum would lose most of it.
    return variance.to(torch.promote_types(variance.dtype, torch.float32)) + _EPSILON
