"""The table of published models, and a run of it on a small fake of both folders."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import reproduce_table
from fcos_core import Predictor
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.weights.zoo import ZOO
from reproduce_table import Model, find_weights, minival, published_models, reproduce

OPTIONS = ("DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu")


@pytest.fixture(scope="module")
def fake(tmp_path_factory, tiny_config):
    """Folders of COCO and of weights, and a table; the annotations are what the detector finds, so its AP is 100."""
    folder = tmp_path_factory.mktemp("fake")
    sections = {key: tiny_config[key] for key in ("MODEL", "INPUT", "TEST")}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(sections))
    config = reproduce_table.cfg.clone()
    config.merge_from_file(str(folder / "tiny.yaml"))
    torch.manual_seed(0)
    model = build_detection_model(config)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.5)
    (folder / "weights").mkdir()
    torch.save({"model": model.state_dict()}, folder / "weights" / "good.pth")
    for name in ("annotations", "val2014"):
        (folder / "coco" / name).mkdir(parents=True)
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((72, 64)).save(folder / "coco" / "val2014" / f"{number}.png")
    annotate(folder, Predictor(config, folder / "weights" / "good.pth", threshold=0.0, compile=False))
    return folder


def annotate(folder, predictor) -> None:
    images, annotations = [], []
    for number in (1, 2):
        images.append({"id": number, "file_name": f"{number}.png", "width": 72, "height": 64})
        found = predictor(folder / "coco" / "val2014" / f"{number}.png")
        for box, label in zip(found.convert("xywh").bbox.tolist(), found.get_field("labels").tolist(), strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "iscrowd": 0}
            annotations.append({**annotation, "bbox": box, "area": box[2] * box[3]})
    assert len(annotations) > 10
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco" / "annotations" / "instances_minival2014.json").write_text(json.dumps(content))


def row(folder, name, ap, file="good.pth") -> Model:
    return Model(name, folder / "tiny.yaml", (file,), ap)


def run(folder, output, *models) -> None:
    reproduce(models, folder / "weights", folder / "coco", output, OPTIONS)


def test_a_run_over_both_folders(fake, tmp_path, capsys):
    content = (fake / "weights" / "good.pth").read_bytes()
    (fake / "weights" / "cut.pth").write_bytes(content[: len(content) // 2])
    models = [
        row(fake, "cut", 100.0, "cut.pth"),
        row(fake, "missing", 100.0, "missing.pth"),
        row(fake, "far", 99.8),
        row(fake, "good", 100.0),
    ]
    with pytest.raises(InputError, match="2 of 3 models fail: cut, far"):
        run(fake, tmp_path, *models)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 tested: 1 pass, 2 fail, 0 without a published AP; 1 without weights."
    table = [line.split() for line in lines[-4:-1]]
    assert table[0][:4] == ["cut", "-", "100.0", "FAIL:"] and "cut.pth" in lines[-4]
    assert table[1:] == [["far", "100.00", "99.8", "FAIL"], ["good", "100.00", "100.0", "pass"]]
    assert any("missing " in line and "no weights: missing.pth is not there" in line for line in lines)
    assert (tmp_path / "good" / "inference" / "coco_2014_minival" / "coco_results.json").exists()


@pytest.fixture
def measured(monkeypatch):
    """Configs that are tested, in place of the tests, which all find an AP of 0.382."""
    configs = []
    monkeypatch.setattr(reproduce_table, "load_detector", lambda config: configs.append(config))
    monkeypatch.setattr(reproduce_table, "test_data_loaders", lambda config: {})
    monkeypatch.setattr(reproduce_table, "test", lambda *_: {"coco_2014_minival": {"bbox": {"AP": 0.382}}})
    return configs


def test_a_row_passes_within_a_tenth_of_the_published_ap(fake, tmp_path, measured, capsys):
    run(fake, tmp_path, *(row(fake, str(ap), ap) for ap in (38.1, 38.2, 38.3, None)))
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 tested: 3 pass, 0 fail, 1 without a published AP; 0")
    for ap in (38.0, 38.4):
        with pytest.raises(InputError, match=f"1 of 1 models fail: {ap}"):
            run(fake, tmp_path, row(fake, str(ap), ap))


def test_a_finished_row_is_tested_again_only_if_weights_config_or_annotations_changed(fake, tmp_path, measured):
    models = [row(fake, "first", 38.2), row(fake, "second", 38.2)]
    run(fake, tmp_path, models[0])
    run(fake, tmp_path, *models)  # goes on after "first"
    run(fake, tmp_path, *models)
    assert [config.OUTPUT_DIR for config in measured] == [str(tmp_path / "first"), str(tmp_path / "second")]
    reproduce(models, fake / "weights", fake / "coco", tmp_path, (*OPTIONS, "TEST.IMS_PER_BATCH", "1"))
    assert len(measured) == 4
    (fake / "weights" / "changed.pth").write_bytes(b"changed")
    run(fake, tmp_path, replace(models[0], files=("changed.pth",)))
    run(fake, tmp_path, replace(models[0], files=("changed.pth",)))
    assert len(measured) == 5
    annotations = fake / "coco" / "annotations" / "instances_minival2014.json"
    annotations.write_text(annotations.read_text() + " ")
    run(fake, tmp_path, replace(models[0], files=("changed.pth",)))
    assert len(measured) == 6


def test_a_published_file_must_have_the_hash_in_its_name(fake, tmp_path, measured, capsys):
    (fake / "weights" / "model-0123abcd.pth").write_bytes(b"damaged")
    model = row(fake, "model", 38.2, "model-0123abcd.pth")
    with pytest.raises(InputError, match="1 of 1 models"):
        run(fake, tmp_path, model)
    assert not measured and "its SHA-256 starts with" in capsys.readouterr().out
    # A file of another name, as a conversion or the cache has it, says nothing about its content.
    run(fake, tmp_path, replace(model, files=("model-ffffffff.pth", "model-0123abcd.pth")))
    assert len(measured) == 1


def test_wrong_folders_and_a_damaged_file_of_results_are_named(fake, tmp_path):
    model = row(fake, "good", 100.0)
    with pytest.raises(InputError, match=r"instances_minival2014.json.* or .*instances_val2017.json"):
        reproduce([model], fake / "weights", tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"has no file of the table, such as good.pth"):
        reproduce([model], tmp_path, fake / "coco", tmp_path)
    for damaged in ("{", "[1]", '{"good": 1}'):
        (tmp_path / "results.json").write_text(damaged)
        with pytest.raises(InputError, match=r"results.json' is damaged .* delete it"):
            run(fake, tmp_path, model)


def test_val_2017_does_as_well(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").touch()
    name, images, annotations = minival(tmp_path)
    assert name == "coco_2017_val" and images.name == "val2017" and annotations.is_file()


def test_the_table_has_every_detector_and_finds_it_by_its_published_name(tmp_path):
    models = {model.name: model for model in published_models()}
    # 15 of HRNet-FCOS; of the zoo every model with an AP.
    assert len(models) == 15 + sum(model.ap is not None for model in ZOO.values())
    published = {
        "fcos_hrnet_w32_5l_2x": "FCOS_hrnet_w32_5l_2x.pth",
        "fcos_imprv_R_50_FPN_1x": "FCOS_imprv_R_50_FPN_1x.pth",
        "adelaidet_fcos_R_50_1x": "FCOS_R_50_1x.pth",
        "torchvision_fcos_resnet50_fpn": "fcos_resnet50_fpn_coco-99b0c9b7.pth",
        "mmdet_fcos_hrnetv2p_w18_1x": "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco_20201212_100710-4ad151de.pth",
    }
    for file in (*published.values(), "mmdet_fcos_r50_caffe_1x.safetensors"):
        (tmp_path / file).touch()
    found = {model.name: path.name for model, path in find_weights(published_models(), tmp_path).items()}
    assert found == {**published, "mmdet_fcos_r50_caffe_1x": "mmdet_fcos_r50_caffe_1x.safetensors"}
    files = [file for model in models.values() for file in model.files]
    assert len(files) == len(set(files)), "a file would be taken for two models"
