"""Drawn datasets and the loaders that read them."""

import json

import pytest
import torch

from benchmarks import data
from benchmarks.evaluation import synthetic_results
from benchmarks.settings import Settings, default_settings
from benchmarks.synthetic import draw_jpegs, write_annotations
from fcos_core.data import make_data_loader
from fcos_core.data.coco import COCODataset
from fcos_core.errors import InputError
from fcos_core.evaluation import evaluate

CPU = torch.device("cpu")


@pytest.fixture
def settings():
    return Settings(**{**default_settings("cpu"), "device": CPU, "height": 96, "width": 128, "coco_scale": 0.0001})


def test_naive_and_our_loader_give_the_same_pixels(settings, tmp_path):
    images = draw_jpegs(tmp_path, 3)
    config = data._loader_config(settings, images, tmp_path / "images.json")
    ours = list(data.our_batches(make_data_loader(config, is_train=False)[0], CPU))
    naive = list(data.naive_batches(config, images, CPU))
    assert [tuple(batch.shape) for batch in naive] == [(2, 3, 96, 128), (1, 3, 96, 128)]
    assert data.grey_levels_apart(ours, naive) <= 1


def test_largest_difference_is_over_all_batches():
    found, expected = [torch.zeros(2), torch.tensor([1.0, -4.0])], [torch.zeros(2), torch.tensor([2.0, 1.0])]
    assert data.grey_levels_apart(found, expected) == 5


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(InputError, match="--image-folder: there is no JPEG file"):
        data._jpegs(tmp_path)


def test_annotations_are_a_coco_file(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.synthetic._PIECE", 7)
    write_annotations(tmp_path / "a.json", images=5, boxes=20)
    tree = json.loads((tmp_path / "a.json").read_text())
    assert [entry["id"] for entry in tree["annotations"]] == list(range(1, 21))
    assert len(tree["images"]) == 5 and len(tree["categories"]) == 80
    dataset = COCODataset(str(tmp_path), str(tmp_path / "a.json"), check_files=False)
    assert sum(len(dataset.ground_truth(index)) for index in range(5)) == 20


def test_annotation_file_is_measured(settings):
    ((row,),) = (table.rows for table in data.annotations(settings))
    # 12 images and 86 boxes; a polygon has 8 to 39 points of about 14 characters.
    assert 0.02 < row["file MB"] < 0.1
    assert row["load s"] > 0


def test_drawn_detections_are_neither_perfect_nor_worthless():
    dataset, predictions = synthetic_results(20)
    assert all(len(found) == 100 for found in predictions.values())
    assert 0.1 < evaluate(dataset, predictions)["bbox"]["AP"] < 0.9
