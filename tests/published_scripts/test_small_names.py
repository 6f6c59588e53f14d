"""Published names of a few lines each, against values computed by hand or by PyTorch."""

import copy
import logging

import pytest
import torch

from fcos_core.config import cfg, paths_catalog
from fcos_core.config.paths_catalog import DatasetCatalog, ModelCatalog, dataset_paths, weights_source
from fcos_core.errors import InputError
from fcos_core.layers import Conv2d, ml_nms, smooth_l1_loss
from fcos_core.modeling.utils import cat
from fcos_core.utils import env
from fcos_core.utils.checkpoint import Checkpointer
from fcos_core.utils.comm import all_gather, reduce_dict
from fcos_core.utils.imports import import_file
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.metric_logger import MetricLogger, SmoothedValue
from fcos_core.utils.miscellaneous import mkdir, save_config
from fcos_core.utils.model_serialization import load_state_dict
from fcos_core.utils.registry import Registry


def test_meters():
    meters = MetricLogger(delimiter="; ")
    for loss in (1.0, torch.tensor(4.0), 2, 9):
        meters.update(loss=loss, time=0.5)
    # The median of 1, 2, 4, 9 is torch's: the lower of the two in the middle.
    assert (meters.loss.median, meters.loss.avg, meters.loss.global_avg) == (2, 4, 4)
    assert str(meters) == "loss: 2.0000 (4.0000); time: 0.5000 (0.5000)"
    assert copy.deepcopy(meters).loss.count == 4
    with pytest.raises(AttributeError, match="'lr'; the meters are loss, time"):
        meters.lr  # noqa: B018


def test_a_meter_averages_its_window_and_everything():
    meter = SmoothedValue(window_size=2)
    for value in (1, 2, 4):
        meter.update(value)
    assert (meter.avg, meter.total, meter.count, list(meter.deque)) == (3, 7, 3, [2, 4])


def test_registry_takes_both_forms():
    registry = Registry({"a": 1})
    registry.register("b", 2)
    assert registry.register("c")(len) is len
    assert registry == {"a": 1, "b": 2, "c": len}
    with pytest.raises(ValueError, match="twice"):
        registry.register("b", 3)


def test_import_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.py").write_text("answer = 42")
    assert import_file("own_answer", "~/own.py", True).answer == 42
    import own_answer

    assert own_answer.answer == 42
    assert import_file("catalog", cfg.PATHS_CATALOG) is paths_catalog
    with pytest.raises(InputError, match="nowhere"):
        import_file("x", "nowhere.py")


def test_setup_environment_runs_the_users_function(tmp_path, monkeypatch):
    file = tmp_path / "setup_it.py"
    file.write_text("import os\ndef setup_environment():\n    os.environ['FCOS_TEST_SETUP'] = 'done'\n")
    monkeypatch.setenv("FCOS_TEST_SETUP", "")
    monkeypatch.setenv("TORCH_DETECTRON_ENV_MODULE", str(file))
    env.setup_environment()
    assert env.os.environ["FCOS_TEST_SETUP"] == "done"
    file.write_text("")
    with pytest.raises(InputError, match="no function"):
        env.setup_environment()


def test_folders_and_config_files(tmp_path):
    mkdir(tmp_path / "a/b")
    mkdir(tmp_path / "a/b")
    save_config(cfg, tmp_path / "a/b/config.yml")
    again = cfg.clone()
    again.merge_from_file(str(tmp_path / "a/b/config.yml"))
    assert again == cfg


def test_communication_in_one_process():
    assert all_gather({"a": 1}) == [{"a": 1}]
    assert reduce_dict({"a": torch.tensor(2.0)}, average=False) == {"a": torch.tensor(2.0)}


def test_layers():
    boxes, scores = torch.tensor([[0.0, 0, 9, 9]] * 3), torch.tensor([0.1, 0.3, 0.2])
    assert ml_nms(boxes, scores, torch.tensor([1.0, 2.0, 1.0]), 0.5).tolist() == [1, 2]
    # Below beta the loss is d^2 / (2 beta), above it d - beta / 2.
    losses = smooth_l1_loss(torch.tensor([0.5, 3.0]), torch.zeros(2), beta=1, size_average=False)
    assert losses.item() == pytest.approx(0.125 + 2.5)
    assert Conv2d(1, 2, 3)(torch.zeros(0, 1, 5, 5)).shape == (0, 2, 3, 3)
    alone = torch.zeros(2)
    assert cat([alone]) is alone and len(cat((alone, alone))) == 4


def test_catalogs(monkeypatch):
    entry = DatasetCatalog.get("coco_2014_minival")
    assert entry["factory"] == "COCODataset"
    assert entry["args"]["ann_file"] == "datasets/coco/annotations/instances_minival2014.json"
    assert ModelCatalog.get("ImageNetPretrained/MSRA/R-50").endswith("/MSRA/R-50.pkl")
    # What a script adds counts for every loader.
    monkeypatch.setitem(DatasetCatalog.DATASETS, "mine", {"img_dir": "pictures", "ann_file": "mine.json"})
    monkeypatch.setattr(DatasetCatalog, "DATA_DIR", "/data")
    assert dataset_paths("mine", cfg.DATASETS.DATA_DIR, {}) == ("/data/pictures", "/data/mine.json")
    assert dataset_paths("mine", "/other", {}) == ("/other/pictures", "/other/mine.json")


def test_a_users_catalog_of_weights(tmp_path):
    file = tmp_path / "catalog.py"
    file.write_text("class ModelCatalog:\n    get = staticmethod({'mine/r50': 'https://a.b/r50.pth'}.__getitem__)\n")
    assert weights_source("catalog://mine/r50", str(file)) == "https://a.b/r50.pth"
    assert weights_source("mine/r50", str(file)) == "mine/r50"
    assert weights_source("catalog://mine/r50", "") == "catalog://mine/r50"
    with pytest.raises(InputError, match=r"no weights 'r51' .KeyError"):
        weights_source("catalog://r51", str(file))
    file.write_text("")
    assert weights_source("catalog://mine/r50", str(file)) == "catalog://mine/r50"


def test_checkpointer_without_a_config(tmp_path):
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    Checkpointer(model, save_dir=str(tmp_path), save_to_disk=True).save("model_final", iteration=7)
    assert torch.equal(torch.load(tmp_path / "model_final.pth")["model"]["weight"], model.weight)
    assert Checkpointer(other, save_dir=str(tmp_path)).resume()["iteration"] == 7
    assert torch.equal(other.weight, model.weight)
    assert Checkpointer(other, save_dir=str(tmp_path)).load() == {"iteration": 7}
    assert Checkpointer(other, save_dir=str(tmp_path)).load("", use_latest=False) == {}


def test_load_state_dict(small_config):
    from fcos_core.modeling.detector import build_detection_model

    model, other = build_detection_model(small_config), build_detection_model(small_config)
    load_state_dict(model, {f"module.{key}": value for key, value in other.state_dict().items()})
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_published_loggers_name_shows_the_librarys_lines(tmp_path):
    library, published = logging.getLogger("fcos_core"), logging.getLogger("maskrcnn_benchmark")
    handlers, propagate, parent = list(library.handlers), library.propagate, published.parent
    try:
        setup_logger("maskrcnn_benchmark", str(tmp_path), 0, filename="mine.txt")
        logging.getLogger("fcos_core.engine.trainer").info("from the library")
        logging.getLogger("maskrcnn_benchmark.trainer").info("from the script")
        text = (tmp_path / "mine.txt").read_text()
        assert text.count("from the library") == text.count("from the script") == 1
    finally:
        for handler in library.handlers:
            handler.close()
        library.handlers, library.propagate, published.parent = handlers, propagate, parent
