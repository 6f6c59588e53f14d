"""configs/own: starting points for a dataset of one's own, which classes and length are taken from."""

import json
from pathlib import Path

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.config.checks import check_values
from fcos_core.engine.from_dataset import complete_config
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.solver import WarmupCosineLR, make_lr_scheduler, make_optimizer
from fcos_core.weights.zoo import SCHEME, ZOO

OWN = Path(__file__).resolve().parents[2] / "configs" / "own"
NAMES = ["finetune_coco", "finetune_w18", "finetune_w32", "scratch_small"]


def merged(name, *overrides):
    config = cfg.clone()
    config.merge_from_file(str(OWN / f"{name}.yaml"))
    config.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """81 images with a box of one of two classes each; no test reads the images."""
    path = tmp_path_factory.mktemp("own") / "train.json"
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(1, 82)]
    boxes = [{"id": i, "image_id": i, "category_id": i % 2 + 1, "bbox": [9, 9, 90, 60]} for i in range(1, 82)]
    categories = [{"id": 1, "name": "hen"}, {"id": 2, "name": "fox"}]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    catalog = "DATASETS.CATALOG.yard"
    return ("DATASETS.TRAIN", "('yard',)", f"{catalog}.img_dir", str(path.parent), f"{catalog}.ann_file", str(path))


def test_these_are_the_files():
    assert sorted(path.stem for path in OWN.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_classes_and_length_come_from_the_data(name, data):
    config = merged(name, *data)
    complete_config(config, is_train=True)
    check_values(config)
    # 81^0.75 = 27: 5,400 images, times the file's factor, in its batches.
    shown = config.SOLVER.MAX_ITER * config.SOLVER.IMS_PER_BATCH
    assert shown == pytest.approx(5400 * config.SOLVER.ITER_FACTOR, abs=config.SOLVER.IMS_PER_BATCH / 2)
    with torch.device("meta"):
        model = build_detection_model(config)
    assert model.rpn.head.cls_logits.weight.shape[0] == 2
    assert isinstance(make_lr_scheduler(config, make_optimizer(config, model)), WarmupCosineLR)


@pytest.mark.parametrize("name", NAMES)
def test_the_average_has_forgotten_the_first_weights_at_the_end(name, data):
    """A training on ten images is tested by its average: random first weights in it would detect nothing."""
    config = merged(name, *data)
    iterations = config.SOLVER.ITER_FACTOR * 200 * 10**0.75 / config.SOLVER.IMS_PER_BATCH
    assert config.TEST.USE_EMA and config.SOLVER.EMA_DECAY**iterations < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_without_data_the_error_names_the_key(name):
    with pytest.raises(InputError, match=r"DATASETS\.TRAIN is empty"):
        complete_config(merged(name), is_train=True)


@pytest.mark.parametrize("name", NAMES[:3])
def test_the_weights_to_start_from_are_of_the_zoo(name):
    assert merged(name).MODEL.WEIGHT.removeprefix(SCHEME) in ZOO
