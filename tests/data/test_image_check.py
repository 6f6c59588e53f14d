"""Every image is decoded once before a training, and all that cannot be used are named together."""

import logging
import os

import pytest
import torch
from coco_trees import tree_of

from fcos_core.data import image_check, make_data_loader
from fcos_core.data.image_check import check_images
from fcos_core.engine import train
from fcos_core.errors import InputError
from fcos_core.utils import comm

SIZES = [(48, 36)] * 40


def datasets_with(make_cfg, *broken, name="a"):
    dataset = make_data_loader(make_cfg({name: tree_of(SIZES)})).dataset
    for index in broken:
        with open(dataset.image_path(index), "r+b") as file:
            file.truncate(os.path.getsize(file.name) // 2)
    return [dataset]


@pytest.mark.parametrize("workers", [0, 2])
def test_all_damaged_images_are_named_in_one_error(make_cfg, workers):
    datasets = datasets_with(make_cfg, 0, 17, 39) + datasets_with(make_cfg, 5, name="b")
    with pytest.raises(
        InputError, match=r"^4 of 80 images cannot be used\. .*a/1\.png.*a/18\.png.*a/40\.png.*b/6\.png"
    ):
        check_images(datasets, workers, skip_unreadable=False)


def test_images_that_are_skipped_are_counted_and_named_in_the_log(make_cfg, caplog):
    with caplog.at_level(logging.WARNING):
        check_images(datasets_with(make_cfg, 3, 8), 0, skip_unreadable=True)
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 40 images cannot be read and will be skipped.")
    assert "/4.png" in record.getMessage() and "/9.png" in record.getMessage()


def test_another_size_than_annotated_is_an_error_even_where_unreadable_images_are_skipped(make_cfg):
    (dataset,) = datasets_with(make_cfg, 3)
    dataset.image_sizes[7] += 1
    with pytest.raises(
        InputError, match=r"^1 of 40 images cannot be used\. .*8\.png' is 48x36 .* says 49x37: .*image\. Copy"
    ):
        check_images([dataset], 0, skip_unreadable=True)


def test_whole_images_are_reported_and_leave_the_random_numbers_alone(make_cfg, caplog):
    datasets = datasets_with(make_cfg)
    state = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        check_images(datasets * 2, 1, skip_unreadable=False)
    assert "All 80 images can be read." in caplog.text and torch.equal(torch.get_rng_state(), state)


def test_processes_share_the_images_and_all_raise_the_same_error(make_cfg, monkeypatch):
    datasets = datasets_with(make_cfg, 2, 20)
    read = []
    original = type(datasets[0]).__getitem__
    monkeypatch.setattr(type(datasets[0]), "__getitem__", lambda self, i: read.append(i) or original(self, i))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    found = {}
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "all_gather_objects", lambda own, rank=rank: found.setdefault(rank, own) and [])
        check_images(datasets, 0, skip_unreadable=False)
    assert sorted(read) == list(range(40))
    monkeypatch.setattr(comm, "all_gather_objects", lambda own: [found[0], found[1]])
    with pytest.raises(InputError, match=r"^2 of 40 images .*3\.png.*21\.png"):
        check_images(datasets, 0, skip_unreadable=False)


def test_an_endless_list_is_cut(monkeypatch):
    monkeypatch.setattr(image_check, "_MOST_NAMED", 2)
    assert image_check._names([(i, f"x{i}", True) for i in range(5)]) == "x0; x1; and 3 more"


@pytest.mark.parametrize("asked", [True, False])
def test_a_training_checks_the_images_of_training_and_test_if_asked(make_cfg, small_config, monkeypatch, asked):
    def check(datasets, *_):
        checked.append([len(dataset) for dataset in datasets])

    def stop(_):
        raise InterruptedError("the training starts")

    checked = []
    monkeypatch.setattr(train, "check_images", check)
    monkeypatch.setattr(train, "_write_record", stop)
    cfg = make_cfg({"a": tree_of(SIZES[:3])}, "DATALOADER.CHECK_IMAGES", asked)
    cfg.MODEL = small_config.MODEL.clone()
    cfg.MODEL.FCOS.NUM_CLASSES = 2
    cfg.OUTPUT_DIR = os.path.dirname(cfg.DATASETS.CATALOG.a.ann_file)
    test_loaders = dict(zip("a", make_data_loader(cfg, is_train=False), strict=True))
    with pytest.raises(InterruptedError):
        train.train(cfg, test_loaders)
    assert checked == ([[3, 3]] if asked else [])
