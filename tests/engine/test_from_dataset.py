"""Numbers that the config leaves to the data: classes and length of a training."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_core.commands import predict
from fcos_core.config.checks import check_values
from fcos_core.data import coco_json
from fcos_core.data.build import make_data_loader
from fcos_core.engine.config_changes import find_changes
from fcos_core.engine.from_dataset import complete_config
from fcos_core.engine.program import config_parser, make_config, setup_run
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.predictor import Predictor, config_for


def write_dataset(folder, name, images=20, empty=4, classes=("cat", "dog")):
    """Write an annotation file and its images of 16x16 pixels; the last `empty` images have no box."""
    (folder / "images").mkdir(exist_ok=True)
    entries = [
        {"id": i, "file_name": f"{name}{i}.png", "width": 16, "height": 16} for i in range(1, images + empty + 1)
    ]
    for entry in entries:
        Image.new("RGB", (16, 16)).save(folder / "images" / entry["file_name"])
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 8, 8]} for i in range(1, images + 1)]
    categories = [{"id": i, "name": text} for i, text in enumerate(classes, 1)]
    (folder / f"{name}.json").write_text(
        json.dumps({"images": entries, "annotations": boxes, "categories": categories})
    )


@pytest.fixture
def config(small_config, tmp_path):
    write_dataset(tmp_path, "train")
    made = small_config.clone()
    options = {
        "DATASETS.DATA_DIR": str(tmp_path),
        "DATASETS.TRAIN": "('train',)",
        "DATASETS.CATALOG.train.img_dir": "images",
        "DATASETS.CATALOG.train.ann_file": "train.json",
        "DATASETS.CATALOG.other.img_dir": "images",
        "DATASETS.CATALOG.other.ann_file": "other.json",
        "MODEL.FCOS.NUM_CLASSES": 0,
        "SOLVER.MAX_ITER": 0,
        "SOLVER.IMS_PER_BATCH": 4,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path / "out"),
    }
    made.merge_from_list([word for option in options.items() for word in option])
    return made


def test_a_training_takes_classes_and_length_from_its_data(config):
    complete_config(config, is_train=True)
    assert config.MODEL.FCOS.NUM_CLASSES == 3
    # 20 images with boxes, 4 a batch: 200 * 20^0.75 / 4 = 472.9; 2/3 of 473 is 315.3 and 8/9 of it 420.4.
    assert (config.SOLVER.MAX_ITER, config.SOLVER.STEPS, config.SOLVER.WARMUP_ITERS) == (473, (315, 420), 47)
    check_values(config)
    assert len(make_data_loader(config)) == 473


def test_empty_images_count_if_they_are_trained_on(config):
    config.merge_from_list(["DATALOADER.KEEP_EMPTY_IMAGES", True, "SOLVER.ITER_FACTOR", 2])
    complete_config(config, is_train=True)
    assert config.SOLVER.MAX_ITER == 1084  # 2 * 200 * 24^0.75 / 4 = 1084.3


def test_numbers_of_the_config_stay(config):
    config.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 3, "SOLVER.STEPS", "(100,)", "SOLVER.WARMUP_ITERS", 10])
    complete_config(config, is_train=True)
    assert (config.SOLVER.MAX_ITER, config.SOLVER.STEPS, config.SOLVER.WARMUP_ITERS) == (473, (100,), 10)
    config.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 7, "SOLVER.MAX_ITER", 900])
    complete_config(config, is_train=True)
    assert (config.MODEL.FCOS.NUM_CLASSES, config.SOLVER.MAX_ITER) == (7, 900)


def test_a_config_without_zeros_reads_no_data(config, tmp_path):
    (tmp_path / "train.json").unlink()
    config.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 3, "SOLVER.MAX_ITER", 5])
    complete_config(config, is_train=True)
    assert config.notes == ()


def test_steps_beyond_the_derived_end_are_refused(config):
    config.merge_from_list(["SOLVER.STEPS", "(300, 60000)"])
    with pytest.raises(InputError, match=r"SOLVER.STEPS is \(300, 60000\): write \(\).* of the 473 iterations"):
        complete_config(config, is_train=True)


def test_one_image_gives_a_training(config, tmp_path):
    write_dataset(tmp_path, "train", images=1, empty=0)
    config.merge_from_list(["SOLVER.IMS_PER_BATCH", 1000])
    complete_config(config, is_train=True)
    assert (config.SOLVER.MAX_ITER, config.SOLVER.STEPS, config.SOLVER.WARMUP_ITERS) == (1, (1, 1), 0)
    check_values(config)


@pytest.mark.parametrize(
    ("other", "fewer", "expected"),
    [
        (("dog", "cat"), False, 3),
        (("dog", "cow"), True, 4),
        (("dog", "cow"), False, "categories of '.*other.json' are not the classes of train"),
    ],
)
def test_several_training_sets(config, tmp_path, other, fewer, expected):
    write_dataset(tmp_path, "other", classes=other)
    config.merge_from_list(["DATASETS.TRAIN", "('train', 'other')", "DATASETS.FEWER_CATEGORIES", fewer])
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            complete_config(config, is_train=True)
        return
    complete_config(config, is_train=True)
    assert expected == config.MODEL.FCOS.NUM_CLASSES
    assert config.SOLVER.MAX_ITER == 795  # 200 * 40^0.75 / 4 = 795.3


def test_other_faults_of_the_config_come_before_the_data(config, tmp_path):
    (tmp_path / "train.json").unlink()
    config.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(InputError, match=r"SOLVER\.IMS_PER_BATCH is 0"):
        complete_config(config, is_train=True)


def test_a_training_without_data_is_refused(config):
    config.DATASETS.TRAIN = ()
    with pytest.raises(InputError, match=r"DATASETS\.TRAIN is empty"):
        complete_config(config, is_train=True)


def test_the_annotation_file_is_read_once(config, tmp_path, monkeypatch):
    reads = []
    read = coco_json._read_sections
    monkeypatch.setattr(coco_json, "_read_sections", lambda path: reads.append(path) or read(path))
    complete_config(config, is_train=True)
    make_data_loader(config)
    assert len(reads) == 1
    make_data_loader(config)
    assert len(reads) == 2


def test_a_file_that_changes_after_it_was_read_ahead_is_read_again(config, tmp_path):
    complete_config(config, is_train=True)
    write_dataset(tmp_path, "train", images=5)
    assert len(make_data_loader(config).dataset) == 5


def test_a_test_takes_the_numbers_of_the_run_that_saved_the_weights(config, tmp_path):
    run = config.clone()
    run.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 9, "SOLVER.MAX_ITER", 777])
    torch.save({"model": {}, "config": run.dump(), "categories": ["a", "b"]}, tmp_path / "w.pth")
    config.MODEL.WEIGHT = str(tmp_path / "w.pth")
    complete_config(config, is_train=False)
    assert (config.MODEL.FCOS.NUM_CLASSES, config.SOLVER.MAX_ITER) == (9, 777)


@pytest.mark.parametrize("stored", [{}, {"config": "a: [1"}, {"config": "MODEL: {FCOS: {NUM_CLASSES: many}}"}])
def test_a_test_takes_the_classes_that_the_weights_name(config, tmp_path, stored):
    torch.save({"model": {}, "categories": ["a", "b", "c"], **stored}, tmp_path / "w.pth")
    config.MODEL.WEIGHT = str(tmp_path / "w.pth")
    complete_config(config, is_train=False)
    assert (config.MODEL.FCOS.NUM_CLASSES, config.SOLVER.MAX_ITER) == (4, 1)


def test_weights_without_names_have_the_classes_of_the_data(config, tmp_path):
    torch.save({"model": {}}, tmp_path / "w.pth")
    config.merge_from_list(["MODEL.WEIGHT", str(tmp_path / "w.pth"), "DATASETS.TEST", "('other',)"])
    write_dataset(tmp_path, "other", classes=("a", "b", "c", "d", "e"))
    of_training = config.clone()
    complete_config(of_training, is_train=False)
    assert of_training.MODEL.FCOS.NUM_CLASSES == 3
    (tmp_path / "train.json").unlink()
    of_test = config.clone()
    complete_config(of_test, is_train=False)
    assert of_test.MODEL.FCOS.NUM_CLASSES == 6
    (tmp_path / "other.json").unlink()
    with pytest.raises(
        InputError, match=r"NUM_CLASSES is 0.*w.pth' does not name classes.*write the number of classes"
    ):
        complete_config(config, is_train=False)


def test_the_command_logs_what_it_derived(config, tmp_path):
    config.merge_from_list(["SOLVER.STEPS", "()"])
    path = tmp_path / "own.yaml"
    path.write_text(config.dump())
    arguments = config_parser("").parse_args(["--config-file", str(path)])
    left = make_config(arguments, is_train=None)
    assert (left.MODEL.FCOS.NUM_CLASSES, left.SOLVER.MAX_ITER) == (0, 0)
    made = make_config(arguments, is_train=True)
    assert made.is_frozen()
    logger = logging.getLogger("fcos_core")
    former = logger.propagate
    try:
        setup_run(made)
        text = (tmp_path / "out" / "log.txt").read_text()
    finally:
        logger.handlers.clear()
        logger.propagate = former
    derived = "MODEL.FCOS.NUM_CLASSES 3, SOLVER.MAX_ITER 473, SOLVER.STEPS (315, 420)"
    assert f"Derived from 20 images of 2 classes in train: {derived}" in text
    assert "NUM_CLASSES: 3" in text and "MAX_ITER: 473" in text


def test_a_predictor_has_the_classes_of_its_weights(config, tmp_path):
    trained = config.clone()
    complete_config(trained, is_train=True)
    model = build_detection_model(trained)
    torch.save({"model": model.state_dict(), "config": trained.dump(), "categories": ["x", "y"]}, tmp_path / "w.pth")
    # The weights that a training began with do not count.
    torch.save({"model": {}, "categories": [f"class {i}" for i in range(80)]}, tmp_path / "began.pth")
    config.MODEL.WEIGHT = str(tmp_path / "began.pth")
    (tmp_path / "own.yaml").write_text(config.dump())
    words = ["--config-file", str(tmp_path / "own.yaml"), "--weights", str(tmp_path / "w.pth"), "--input", "x.jpg"]
    command = predict.make_predictor(predict._parse([*words, "TEST.COMPILE", "False"]))
    assert config_for(str(tmp_path / "own.yaml"), str(tmp_path / "w.pth"), []).MODEL.FCOS.NUM_CLASSES == 3
    for predictor in (command, Predictor(config, tmp_path / "w.pth", compile=False)):
        assert predictor.category_names == ("x", "y")
    assert predictor(np.zeros((32, 32, 3), np.uint8)).size == (32, 32)


def test_more_data_show_among_the_changes_of_a_resumed_run(config, tmp_path):
    former = config.clone()
    complete_config(former, is_train=True)
    again = config.clone()
    complete_config(again, is_train=True)
    assert again.dump() == former.dump()
    write_dataset(tmp_path, "train", images=30, classes=("cat", "dog", "cow"))
    complete_config(config, is_train=True)
    assert list(find_changes(former.dump(), config.dump())) == [
        ("MODEL.FCOS.NUM_CLASSES", "3", "4"),
        ("SOLVER.MAX_ITER", "473", "641"),  # 200 * 30^0.75 / 4 = 640.9
        ("SOLVER.STEPS", "[315, 420]", "[427, 570]"),
        ("SOLVER.WARMUP_ITERS", "47", "64"),
    ]
