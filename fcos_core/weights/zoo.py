"""Published weights by name, for zoo://NAME."""

import difflib
import os
import re
import urllib.parse
from dataclasses import dataclass

from fcos_core.errors import InputError
from fcos_core.weights import hub
from fcos_core.weights.conventions import IMAGENET_HRNET, IMAGENET_RESNET

SCHEME = "zoo://"
HUB = "https://huggingface.co"
_MMDET = "https://download.openmmlab.com/mmdetection/v2.0"
_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party"
_PYTORCH = "https://download.pytorch.org/models"
# For academic use; for commercial use their authors ask to be contacted.
_FCOS_LICENCE = "BSD-2-Clause, academic use"


@dataclass(frozen=True)
class ZooModel:
    """A file of weights that its authors publish.

    Attributes:
        url: where the file is. A name that ends in -HASH.ext has the start of the SHA-256 of its content.
        ap: AP on COCO minival as published, in percent; None for an ImageNet body.
        licence: of the weights, as the framework states it.
        conventions: what it was trained under, a key of `CONVENTIONS`; for a detector also the name of its YAML file
            in configs/zoo.
    """

    url: str
    ap: float | None
    licence: str
    conventions: str


def _fcos_models() -> dict[str, ZooModel]:
    """Models of the FCOS authors."""
    aps = {
        "R_50_FPN_1x": 37.1,
        "R_101_FPN_2x": 41.4,
        "X_101_32x8d_FPN_2x": 42.5,
        "X_101_64x4d_FPN_2x": 43.0,
        "imprv_R_50_FPN_1x": 38.7,
        "imprv_R_101_FPN_2x": 43.0,
        "imprv_X_101_32x8d_FPN_2x": 44.0,
        "imprv_X_101_64x4d_FPN_2x": 44.7,
        "imprv_dcnv2_R_50_FPN_1x": 42.3,
        "imprv_dcnv2_R_101_FPN_2x": 45.6,
        "imprv_dcnv2_X_101_32x8d_FPN_2x": 46.4,
        "imprv_dcnv2_X_101_64x4d_FPN_2x": 46.6,
        "syncbn_bs32_c128_MNV2_FPN_1x": 30.9,
        "syncbn_bs32_MNV2_FPN_1x": 33.1,
        "bn_bs16_MNV2_FPN_1x": 31.0,
    }
    folder = f"{HUB}/tianzhi/FCOS/resolve/main"
    return {
        f"fcos_{name}": ZooModel(f"{folder}/FCOS_{name}.pth", ap, _FCOS_LICENCE, f"fcos_{name}")
        for name, ap in aps.items()
    }


def _adelaidet_models() -> dict[str, ZooModel]:
    aps = {"R_50_1x": 38.7, "MS_R_50_2x": 41.0, "MS_R_101_2x": 43.1, "R_50_1x_iou": 39.4}
    folder = f"{HUB}/tianzhi/AdelaiDet-FCOS/resolve/main"
    return {
        f"adelaidet_fcos_{name}": ZooModel(f"{folder}/FCOS_{name}.pth", ap, _FCOS_LICENCE, f"adelaidet_fcos_{name}")
        for name, ap in aps.items()
    }


def _mmdet_models() -> dict[str, ZooModel]:
    """Models of mmdetection: name, AP, the name of folder and file, and the end of the file's name."""
    tricks = "fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head"
    multi_scale = "gn-head_mstrain_640-800"
    rows = [
        ("hrnetv2p_w18", "_1x", 35.3, "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco", "_20201212_100710-4ad151de"),
        ("hrnetv2p_w18", "_2x", 38.2, "fcos_hrnetv2p_w18_gn-head_4x4_2x_coco", "_20201212_101110-5c575fa5"),
        ("hrnetv2p_w18", "_ms_2x", 38.3, f"fcos_hrnetv2p_w18_{multi_scale}_4x4_2x_coco", "_20201212_111651-441e9d9f"),
        ("hrnetv2p_w32", "_1x", 39.5, "fcos_hrnetv2p_w32_gn-head_4x4_1x_coco", "_20201211_134730-cb8055c0"),
        ("hrnetv2p_w32", "_2x", 40.8, "fcos_hrnetv2p_w32_gn-head_4x4_2x_coco", "_20201212_112133-77b6b9bb"),
        ("hrnetv2p_w32", "_ms_2x", 41.9, f"fcos_hrnetv2p_w32_{multi_scale}_4x4_2x_coco", "_20201212_090846-b6f2b49f"),
        ("hrnetv2p_w40", "_ms_2x", 42.7, f"fcos_hrnetv2p_w40_{multi_scale}_4x4_2x_coco", "_20201212_124752-f22d2ce5"),
        ("r50_caffe", "_1x", 36.6, "fcos_r50_caffe_fpn_gn-head_1x_coco", "-821213aa"),
        ("r50_caffe", "_ms_2x", 38.5, f"fcos_r50_caffe_fpn_{multi_scale}_2x_coco", "-d92ceeea"),
        ("r50_caffe_tricks", "_1x", 38.7, f"{tricks}_1x_coco", "-0a0d75a8"),
        ("r50_caffe_dcn", "_1x", 42.3, f"{tricks}_dcn_1x_coco", "-ae4d8b3d"),
        ("r101_caffe", "_1x", 39.1, "fcos_r101_caffe_fpn_gn-head_1x_coco", "-0e37b982"),
        ("r101_caffe", "_ms_2x", 40.8, f"fcos_r101_caffe_fpn_{multi_scale}_2x_coco", "-511424d6"),
        ("x101_64x4d", "_ms_2x", 42.6, f"fcos_x101_64x4d_fpn_{multi_scale}_2x_coco", "-ede514a8"),
    ]
    models = {}
    for model, schedule, ap, name, ending in rows:
        url = f"{_MMDET}/{'hrnet' if 'hrnet' in model else 'fcos'}/{name}/{name}{ending}.pth"
        models[f"mmdet_fcos_{model}{schedule}"] = ZooModel(url, ap, "Apache-2.0", f"mmdet_fcos_{model}")
    return models


def _bodies() -> dict[str, ZooModel]:
    """ImageNet bodies: HRNetV2 of timm and openmmlab, ResNets of torchvision."""
    timm = [f"hrnet_{width}.ms_in1k" for width in ("w18_small_v2", "w18", "w32", "w40", "w48")]
    timm += [f"hrnet_{width}_ssld.paddle_in1k" for width in ("w18", "w48")]
    openmmlab = ("w18-00eb2006", "w32-dc9eeb4f", "w40-ed0b031c", "w48-d2186c55")
    torchvision = {"50_v1": "50-0676ba61", "50_v2": "50-11ad3fa6", "101_v1": "101-63fe2227", "101_v2": "101-cd907fc2"}
    return {
        **{
            f"timm_{name}": ZooModel(f"{HUB}/timm/{name}/resolve/main/model.safetensors", None, "MIT", IMAGENET_HRNET)
            for name in timm
        },
        **{
            f"openmmlab_hrnetv2_{name[:3]}": ZooModel(f"{_OPENMMLAB}/hrnetv2_{name}.pth", None, "MIT", IMAGENET_HRNET)
            for name in openmmlab
        },
        **{
            f"torchvision_resnet{name}": ZooModel(f"{_PYTORCH}/resnet{file}.pth", None, "BSD-3-Clause", IMAGENET_RESNET)
            for name, file in torchvision.items()
        },
    }


ZOO: dict[str, ZooModel] = {
    **_fcos_models(),
    **_adelaidet_models(),
    **_mmdet_models(),
    "torchvision_fcos_resnet50_fpn": ZooModel(
        f"{_PYTORCH}/fcos_resnet50_fpn_coco-99b0c9b7.pth", 39.2, "BSD-3-Clause", "torchvision_fcos_resnet50_fpn"
    ),
    **_bodies(),
}


def zoo_url(source: str) -> str:
    """Return the URL of zoo://NAME; raise InputError, which names the nearest name, if there is no such model."""
    name = source.removeprefix(SCHEME)
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=3, cutoff=0.0)
        raise InputError(
            f"Unknown model '{source}'; the nearest known names are {', '.join(f'{SCHEME}{n}' for n in near)}."
        )
    return ZOO[name].url


# Name of a file that its keys do not tell from this project's own to its conventions; all files of timm have one name.
_BY_FILE = {
    os.path.basename(model.url): model.conventions
    for model in ZOO.values()
    if model.conventions.startswith("fcos_") and "/timm/" not in model.url
}


def published_conventions(source: str) -> str:
    """Return the conventions of the published file that `source` names: a zoo:// or hf:// name, URL or path.

    A URL or path is known by the name of its file. Return "" if it is not known.
    """
    if source.startswith(SCHEME):
        return ZOO[source.removeprefix(SCHEME)].conventions
    if source.startswith(f"{hub.SCHEME}timm/hrnet_"):
        return IMAGENET_HRNET
    path = urllib.parse.urlsplit(source).path if re.match(r"(?i)https?:", source) else source
    return _BY_FILE.get(os.path.basename(path), "")
