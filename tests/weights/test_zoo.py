"""Published weights by name."""

import re

import pytest

from fcos_core.errors import InputError
from fcos_core.weights import state_dict_file
from fcos_core.weights.conventions import CONVENTIONS
from fcos_core.weights.state_dict_file import find_weights
from fcos_core.weights.zoo import ZOO


def test_every_model_has_a_file_of_its_own_and_known_conventions():
    assert len({model.url for model in ZOO.values()}) == len(ZOO)
    assert {model.conventions for model in ZOO.values()} == set(CONVENTIONS)
    for name, model in ZOO.items():
        assert re.fullmatch(r"https://[\w.]+/\S+\.(pth|safetensors)", model.url)
        is_body = "imagenet" in model.conventions
        assert model.ap is None if is_body else 30 < model.ap < 47
        assert is_body or name.startswith(model.conventions)


# From the tables of the FCOS authors, AdelaiDet, mmdetection and torchvision.
@pytest.mark.parametrize(
    ("name", "ap", "ending"),
    [
        ("fcos_imprv_dcnv2_X_101_64x4d_FPN_2x", 46.6, "/FCOS/resolve/main/FCOS_imprv_dcnv2_X_101_64x4d_FPN_2x.pth"),
        ("adelaidet_fcos_R_50_1x_iou", 39.4, "tianzhi/AdelaiDet-FCOS/resolve/main/FCOS_R_50_1x_iou.pth"),
        ("mmdet_fcos_hrnetv2p_w40_ms_2x", 42.7, "hrnet/fcos_hrnetv2p_w40_gn-head_mstrain_640-800_4x4_2x_coco"
         "/fcos_hrnetv2p_w40_gn-head_mstrain_640-800_4x4_2x_coco_20201212_124752-f22d2ce5.pth"),
        ("mmdet_fcos_r50_caffe_dcn_1x", 42.3, "_dcn_1x_coco-ae4d8b3d.pth"),
        ("torchvision_fcos_resnet50_fpn", 39.2, "fcos_resnet50_fpn_coco-99b0c9b7.pth"),
        ("timm_hrnet_w18_ssld.paddle_in1k", None, "timm/hrnet_w18_ssld.paddle_in1k/resolve/main/model.safetensors"),
        ("openmmlab_hrnetv2_w48", None, "/pretrain/third_party/hrnetv2_w48-d2186c55.pth"),
        ("torchvision_resnet101_v2", None, "models/resnet101-cd907fc2.pth"),
    ],
)  # fmt: skip
def test_published_models(name, ap, ending):
    assert ZOO[name].ap == ap and ZOO[name].url.endswith(ending)


def test_a_name_is_downloaded_from_its_url(monkeypatch):
    monkeypatch.setattr(state_dict_file, "download", lambda url: f"downloaded {url}")
    assert find_weights("zoo://openmmlab_hrnetv2_w18").endswith("/hrnetv2_w18-00eb2006.pth")


def test_an_unknown_name():
    with pytest.raises(
        InputError, match=r"Unknown model 'zoo://fcos_imprv_R50'.*are zoo://fcos_imprv_R_50_FPN_1x, zoo://"
    ):
        find_weights("zoo://fcos_imprv_R50")
