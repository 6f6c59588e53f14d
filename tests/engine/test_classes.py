"""Labels of datasets in the order of a detector's classes, from training to the metrics."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fcos_core.data import make_data_loader
from fcos_core.engine import test as testing
from fcos_core.engine.classes import label_training_data
from fcos_core.engine.inference import inference
from fcos_core.engine.train import train
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.structures.bounding_box import BoxList
from fcos_core.weights.checkpointer import DetectronCheckpointer

NAMES = ("cat", "dog", "eel")
PLAIN = list(enumerate(NAMES, 1))
ROTATED = [(2, "cat"), (3, "dog"), (1, "eel")]


class Oracle(nn.Module):
    """Finds the box of each class in the one image of the dataset that `make` writes, with the label it was taught."""

    category_names = NAMES

    def forward(self, images):
        boxes = BoxList([[10.0 * k, 5, 10 * k + 8, 25] for k in (1, 2, 3)], (64, 32))
        boxes.add_field("scores", torch.tensor([0.9, 0.8, 0.7]))
        boxes.add_field("labels", torch.tensor([1, 2, 3]))
        return [boxes]


@pytest.fixture
def make(small_config, tmp_path):
    """Return a function from (id, name) pairs of a train and of a val file to a config."""

    def write(name, pairs):
        Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(tmp_path / "1.png")
        annotations = [
            {"id": k, "image_id": 1, "category_id": i, "bbox": [10 * NAMES.index(n) + 10, 5, 9, 21], "area": 189}
            for k, (i, n) in enumerate(pairs, 1)
            if n in NAMES
        ]
        images = [{"id": 1, "file_name": "1.png", "width": 64, "height": 32}]
        categories = [{"id": i, "name": n} for i, n in pairs]
        tree = {"images": images, "annotations": [{**a, "iscrowd": 0} for a in annotations], "categories": categories}
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))

    def make(train=PLAIN, val=PLAIN, *opts):
        config = small_config.clone()
        for name, pairs in (("train", train), ("val", val)):
            write(name, pairs)
            key = f"DATASETS.CATALOG.{name}"
            config.merge_from_list([f"{key}.img_dir", str(tmp_path), f"{key}.ann_file", str(tmp_path / f"{name}.json")])
        config.merge_from_list(["DATASETS.TRAIN", ("train",), "DATASETS.TEST", ("val",), "MODEL.FCOS.NUM_CLASSES", 4])
        config.merge_from_list(["INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0])
        config.merge_from_list(["SOLVER.IMS_PER_BATCH", 1, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", str(tmp_path / "run")])
        config.merge_from_list(list(opts))
        return config

    return make


@pytest.mark.parametrize("val", [PLAIN, ROTATED, [(7, "eel"), (5, "dog"), (90, "cat")]])
def test_metrics_do_not_depend_on_ids_and_order(make, val, tmp_path):
    (loader,) = make_data_loader(make(val=val), is_train=False)
    results = inference(Oracle(), loader, "val", device="cpu", output_folder=tmp_path / "out")
    # Every box is found exactly, so each class has AP 1.
    assert results["bbox"]["AP"] == pytest.approx(1) and results["AP per class"] == pytest.approx(
        dict.fromkeys(NAMES, 1)
    )
    ids = {name: category_id for category_id, name in val}
    written = json.loads((tmp_path / "out" / "bbox.json").read_text())
    assert [entry["category_id"] for entry in written] == [ids[name] for name in NAMES]


def test_classes_that_the_dataset_lacks_are_left_out_where_the_config_says_so(make, caplog):
    config = make(val=[(1, "eel"), (2, "cat")])
    (loader,) = make_data_loader(config, is_train=False)
    with pytest.raises(InputError, match=r"lacks 'dog'.*FEWER_CATEGORIES True"):
        inference(Oracle(), loader, "val", device="cpu")
    config.DATASETS.FEWER_CATEGORIES = True
    (loader,) = make_data_loader(config, is_train=False)
    with caplog.at_level(logging.INFO):
        results = inference(Oracle(), loader, "val", device="cpu")
    assert results["AP per class"] == pytest.approx({"cat": 1, "eel": 1})
    assert "1 detections are of classes that the dataset does not list" in caplog.text


def saved(config, names, classes=4):
    """Save a detector of `classes` with the names of its labels; return its file."""
    own = config.clone()
    own.MODEL.FCOS.NUM_CLASSES = classes
    checkpointer = DetectronCheckpointer(own, build_detection_model(own), save_dir=config.OUTPUT_DIR)
    checkpointer.categories = names
    checkpointer.save("model_0000001", iteration=1)
    return f"{config.OUTPUT_DIR}/model_0000001.pth"


def label(config, tmp_path, names, resumed=False, classes=4):
    """Read a checkpoint with these names as a training does; return the training dataset and the checkpointer."""
    path = saved(config, names, classes)
    dataset = make_data_loader(config).dataset
    folder = config.OUTPUT_DIR if resumed else ""
    checkpointer = DetectronCheckpointer(config, build_detection_model(config), save_dir=folder)
    checkpointer.load(path)
    label_training_data(checkpointer, dataset)
    return dataset, checkpointer


@pytest.mark.parametrize("resumed", [True, False])
def test_training_goes_on_with_the_labels_of_the_weights(make, tmp_path, resumed):
    dataset, checkpointer = label(make(train=ROTATED), tmp_path, NAMES, resumed)
    assert dataset.category_names == tuple(checkpointer.categories) == NAMES
    assert dataset.ground_truth(0).get_field("labels").tolist() == [1, 2, 3]
    assert checkpointer.model.category_names == NAMES


def test_a_run_is_not_resumed_with_other_classes(make, tmp_path):
    with pytest.raises(InputError, match="lists 'eel' in addition and lacks 'ape'"):
        label(make(), tmp_path, ["ape", "cat", "dog"], resumed=True)


def test_fine_tuning_on_other_classes_is_one_line(make, tmp_path, caplog):
    dataset, checkpointer = label(make(), tmp_path, ["ape", "cat", "dog"])
    (line,) = [message for message in caplog.messages if "other classes" in message]
    assert "lists 'eel' in addition and lacks 'ape'" in line
    assert dataset.category_names == tuple(checkpointer.categories) == NAMES


def test_a_new_class_layer_takes_the_classes_of_the_data(make, tmp_path, caplog):
    dataset, _ = label(make(train=ROTATED), tmp_path, ["ape", "bat"], classes=3)
    assert dataset.category_names == ("eel", "cat", "dog") and "other classes" not in caplog.text


def test_weights_without_names_keep_the_order_of_ids_and_say_how_published_code_numbers(make, tmp_path, caplog):
    dataset, _ = label(make(train=ROTATED), tmp_path, None)
    assert dataset.category_names == ("eel", "cat", "dog")
    (line,) = [message for message in caplog.messages if "LABEL_ORDER" in message]
    assert "published code numbers labels" in line
    dataset, _ = label(make(ROTATED, PLAIN, "DATASETS.LABEL_ORDER", "file"), tmp_path, None)
    assert dataset.category_names == NAMES


def test_testing_takes_the_names_of_the_checkpoint_then_of_the_training_data(make, tmp_path):
    config = make(train=PLAIN, val=ROTATED)
    for names, expected in ((["eel", "dog", "cat"], ("eel", "dog", "cat")), (None, NAMES)):
        config.MODEL.WEIGHT = saved(config, names)
        loaders = testing.test_data_loaders(config)
        testing.test(config, loaders)
        assert loaders["val"].dataset.category_names == expected
    (tmp_path / "train.json").unlink()
    assert testing.load_detector(config).category_names == ()


def test_weights_of_more_classes_are_tested_where_the_config_says_so(make, caplog):
    config = make(PLAIN, PLAIN)
    config.MODEL.WEIGHT = saved(config, None, classes=81)
    with pytest.raises(InputError, match=r"NUM_CLASSES 81, because the file has 80 classes .*FEWER_CATEGORIES True"):
        testing.load_detector(config)
    config.MODEL.FCOS.NUM_CLASSES = 81
    with pytest.raises(InputError, match=r"has 3 categories: write 4 .*weights of 80 classes, set .*FEWER_CATEGORIES"):
        make_data_loader(config)
    model, (loader,) = testing.load_detector(config), make_data_loader(config, is_train=False)
    with pytest.raises(InputError, match=r"lists 3 categories .* but the detector has 80 classes"):
        inference(model, loader, "val", device="cpu")
    config.DATASETS.FEWER_CATEGORIES = True
    assert make_data_loader(config).dataset.category_names == NAMES
    for named in (False, True):  # by the training data
        caplog.clear()
        model = testing.load_detector(config) if named else model
        results = testing.test(config, testing.test_data_loaders(config), model)
        assert list(results["val"]["AP per class"]) == list(NAMES)
        assert "80 classes without names" in caplog.text and "labels 1 to 3" in caplog.text


def test_a_published_test_script_tests_the_last_checkpoint_and_never_random_weights(make):
    config = make()
    (loader,) = make_data_loader(config, is_train=False)
    model = build_detection_model(config)
    DetectronCheckpointer(config, model, save_dir=config.OUTPUT_DIR).load(config.MODEL.WEIGHT)
    with pytest.raises(InputError, match=r"Testing needs weights.*MODEL\.WEIGHT.*OUTPUT_DIR"):
        inference(model, loader, "val", device="cpu")
    saved(config, NAMES)
    DetectronCheckpointer(config, model, save_dir=config.OUTPUT_DIR).load(config.MODEL.WEIGHT)
    assert inference(model, loader, "val", device="cpu") is not None


def test_a_file_of_the_body_alone_is_not_tested(make, tmp_path):
    config = make()
    body = build_detection_model(config).backbone.body.state_dict()
    torch.save(body, tmp_path / "body.pth")
    model = build_detection_model(config)
    DetectronCheckpointer(config, model).load(str(tmp_path / "body.pth"))
    (loader,) = make_data_loader(config, is_train=False)
    with pytest.raises(InputError, match="Testing needs weights"):
        inference(model, loader, "val", device="cpu")
    # Training changes the other parameters.
    with torch.no_grad():
        model.rpn.head.cls_logits.bias.add_(1)
    assert inference(model, loader, "val", device="cpu") is not None


def test_a_script_tests_no_detector_that_is_not_finite(make):
    config = make()
    (loader,) = make_data_loader(config, is_train=False)
    model = build_detection_model(config)
    with torch.no_grad():
        model.rpn.head.cls_logits.bias[0] = float("nan")
    with pytest.raises(InputError, match=r"The detector to test has NaN.*rpn\.head\.cls_logits\.bias"):
        inference(model, loader, "val", device="cpu")


def test_a_run_resumed_with_renumbered_files_keeps_its_labels(make, tmp_path):
    opts = ["INPUT.MIN_SIZE_TRAIN", (32,), "INPUT.MAX_SIZE_TRAIN", 64, "SOLVER.STEPS", (), "TEST.EVAL_PERIOD", 1]
    (tmp_path / "run").mkdir()
    for iteration, pairs in ((1, PLAIN), (2, ROTATED)):
        config = make(pairs, ROTATED, "SOLVER.MAX_ITER", iteration, *opts)
        loaders = testing.test_data_loaders(config)
        train(config, loaders)
        content = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
        assert content["categories"] == list(NAMES) and content["iteration"] == iteration
        assert loaders["val"].dataset.contiguous_to_category_id == {1: 2, 2: 3, 3: 1}
    with pytest.raises(InputError, match="not the classes of the run in"):
        train(make([(1, "cat"), (2, "dog"), (3, "ape")], ROTATED, "SOLVER.MAX_ITER", 3, *opts), {})
