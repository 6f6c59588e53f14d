"""A user's own dataset class of the published interface."""

import numpy as np
import pytest
import torch
from coco_trees import tree_of
from PIL import Image
from torch.utils.data import DataLoader

from fcos_core.data import datasets, make_data_loader
from fcos_core.data.build import build_dataset
from fcos_core.data.category_names import category_names
from fcos_core.data.collate_batch import BatchCollator
from fcos_core.data.concat import as_dataset
from fcos_core.data.image_file import UnreadableImageError
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.engine.inference import inference
from fcos_core.errors import InputError
from fcos_core.evaluation import evaluate
from fcos_core.structures.bounding_box import BoxList


def boxes(labels=(1, 2), size=(72, 64)):
    made = BoxList([[5, 5, 40, 40], [10, 20, 60, 60]][: len(labels)], size)
    made.add_field("labels", torch.tensor(labels))
    return made


class Drawn:
    """Images of noise with two boxes each."""

    def __init__(self, count=3, transforms=None):
        self.count, self.transforms = count, transforms

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 72, 3), dtype=np.uint8)
        image, target = Image.fromarray(pixels), boxes()
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target, index

    def get_img_info(self, index):
        return {"height": 64, "width": 72}


class WithGroundTruth(Drawn):
    CLASSES = ("__background__ ", "pear", "plum")

    def get_groundtruth(self, index):
        target = boxes()
        target.add_field("difficult", torch.tensor([0, 1]))
        return target


CATALOG = """
class DatasetCatalog:
    @staticmethod
    def get(name):
        return {"factory": %s, "args": {"count": 4}}
"""


@pytest.fixture
def catalog_cfg(make_cfg, tmp_path, monkeypatch):
    """Return a function from a factory, in the words of a catalog file, to a config that names the file."""
    monkeypatch.setattr(datasets, "Drawn", Drawn, raising=False)

    def make(factory='"Drawn"', text=CATALOG):
        file = tmp_path / "catalog.py"
        file.write_text(text % factory)
        config = make_cfg({}, "PATHS_CATALOG", str(file), "MODEL.FCOS.NUM_CLASSES", 3, "MODEL.DEVICE", "cpu")
        config.merge_from_list(["DATASETS.TRAIN", ("mine",), "DATASETS.TEST", ("mine",)])
        return config

    return make


def test_a_catalogs_dataset_is_loaded_as_others_are(catalog_cfg):
    batches = list(make_data_loader(catalog_cfg()))
    assert len(batches) == 6 and all(len(images) == 4 for images, _, _ in batches)
    images, targets, indices = next(iter(make_data_loader(catalog_cfg(), is_train=False)[0]))
    # The shorter side becomes 32: boxes are halved.
    assert images.image_sizes[0] == (32, 36) and indices[0] == 0
    assert targets[0].bbox[0].tolist() == [2.5, 2.5, 20, 20]


def test_a_factory_may_be_the_class_itself_or_coco_files(catalog_cfg, make_files, tmp_path):
    text = "from fcos_core.data.datasets import Drawn\n" + CATALOG
    assert len(build_dataset(catalog_cfg("Drawn", text), "mine", True)) == 4
    root, ann_file = make_files(tree_of([(40, 30)]))
    text = 'class DatasetCatalog:\n    get = staticmethod(lambda name: {"factory": "COCODataset", "args": %s})'
    config = catalog_cfg({"root": root, "ann_file": ann_file}, text)
    config.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 2])
    assert build_dataset(config, "mine", True).ids == [1]


@pytest.mark.parametrize(
    ("factory", "text", "words"),
    [
        ('"Absent"', CATALOG, "neither in this file nor in"),
        ("1", "answer = %s", "DatasetCatalog needs get"),
        ("1", "class DatasetCatalog:\n    get = staticmethod(lambda name: {}[name] or %s)", "KeyError: 'mine'"),
    ],
)
def test_a_catalog_that_gives_no_dataset(catalog_cfg, factory, text, words):
    with pytest.raises(InputError, match=words):
        make_data_loader(catalog_cfg(factory, text))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("get_img_info", lambda self, index: None, "get_img_info"),
        ("get_img_info", lambda self, index: {"height": 64}, "get_img_info"),
        ("get_img_info", lambda self, index: {"height": 64, "width": 70}, r"\(70, 64\)|\[70, 64\]"),
        ("__len__", lambda self: 0, "no image"),
        ("__getitem__", lambda self, index: boxes(), "must be .image, BoxList, index."),
        ("__getitem__", lambda self, index: (torch.zeros(3, 64, 72), boxes(), index), "Tensor: return a PIL image"),
        (
            "__getitem__",
            lambda self, index: (Image.new("L", (72, 64)), boxes((1, 3)), index),
            "from 1 to 3; they must be from 1 to 2",
        ),
        ("__getitem__", lambda self, index: (Image.new("L", (72, 64)), boxes((0, 1)), index), "labels from 0 to 1"),
        ("__getitem__", lambda self, index: (Image.new("L", (72, 64)), boxes((0.5, 1)), index), "one integer"),
        ("__getitem__", lambda self, index: (Image.new("L", (72, 64)), boxes(size=(9, 9)), index), r"BoxList \(9, 9\)"),
    ],
)
def test_what_a_dataset_lacks_is_said_before_the_training(catalog_cfg, monkeypatch, name, value, words):
    monkeypatch.setattr(Drawn, name, value)
    with pytest.raises(InputError, match=words):
        make_data_loader(catalog_cfg())


def test_names_of_an_own_dataset_are_those_of_a_predictor(catalog_cfg, monkeypatch):
    monkeypatch.setattr(datasets, "Drawn", WithGroundTruth)
    assert category_names(catalog_cfg()) == ("pear", "plum")


def test_labels_follow_the_names_of_the_detector():
    dataset = OwnDataset(WithGroundTruth(), 3)
    dataset.use_labels(["plum", "pear"])
    assert dataset[0][1].get_field("labels").tolist() == [2, 1]
    assert dataset.contiguous_to_category_id == {1: 2, 2: 1}
    assert [entry["category_id"] for entry in dataset.coco.loadAnns([1, 2])] == [1, 2]
    with pytest.raises(InputError, match="fig"):
        dataset.use_labels(["plum", "fig"])
    assert OwnDataset(Drawn(), 3).category_names == ()


def test_all_missing_methods_are_named_at_once():
    with pytest.raises(InputError, match="int lacks __len__ and __getitem__ and get_img_info"):
        OwnDataset(1)


def test_an_unreadable_file_is_skipped_or_named(monkeypatch):
    def fail(self, index):
        raise OSError("cut short")

    monkeypatch.setattr(Drawn, "__getitem__", fail)
    with pytest.raises(UnreadableImageError, match=r"Drawn\[1\] cannot be read \(cut short\): restore"):
        OwnDataset(Drawn())[1]


def test_the_users_boxes_are_not_changed():
    dataset = Drawn()
    mine = BoxList([[-5.0, 5, 40, 40]], (72, 64))
    mine.add_field("labels", torch.tensor([1]))
    dataset.transforms = lambda image, _: (image, mine)
    assert OwnDataset(dataset)[0][1].bbox.tolist() == [[0, 5, 40, 40]]
    assert mine.bbox.tolist() == [[-5, 5, 40, 40]]


@pytest.mark.parametrize("kind", [Drawn, WithGroundTruth])
def test_metrics_of_perfect_detections(kind):
    dataset = OwnDataset(kind(), 3)
    found = {index: boxes() for index in range(3)}
    for index in found:
        found[index].add_field("scores", torch.ones(2))
    results = evaluate(dataset, found)
    assert dataset.category_names == (("pear", "plum") if kind is WithGroundTruth else ("class 1", "class 2"))
    # Difficult boxes are no mistakes, neither missed nor found: without others a class has no AP.
    second = -1 if kind is WithGroundTruth else pytest.approx(1)
    assert list(results["AP per class"].values()) == [pytest.approx(1), second]


def as_tensor(image, target):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float(), target


class Knowing(torch.nn.Module):
    """Detector that knows where the boxes are."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        found = [boxes() for _ in images.image_sizes]
        for made in found:
            made.add_field("scores", torch.ones(len(made)))
        return found


def test_a_dataloader_of_ones_own_is_tested(tmp_path):
    loader = DataLoader(Drawn(3, as_tensor), batch_size=2, collate_fn=BatchCollator(32))
    results, detections = inference(Knowing(), loader, "mine", device="cpu", output_folder=tmp_path)
    assert results.results["bbox"]["AP"] == pytest.approx(1) and len(detections["bbox"]) == 6
    assert len(torch.load(tmp_path / "predictions.pth")) == 3


@pytest.mark.parametrize(
    ("name", "value"), [("get_img_info", lambda self, index: None), ("__getitem__", lambda self, index: index)]
)
def test_what_a_dataset_lacks_is_said_before_the_test(monkeypatch, name, value):
    loader = DataLoader(Drawn(3, as_tensor), batch_size=2, collate_fn=BatchCollator(32))
    monkeypatch.setattr(Drawn, name, value)
    model = Knowing()
    with pytest.raises(InputError, match="Drawn"):
        inference(model, loader, "mine", device="cpu")
    assert model.calls == 0


def test_a_class_that_inherits_the_published_dataset(make_files):
    root, ann_file = make_files(
        {**tree_of([(40, 30), (30, 40)]), "categories": [{"id": 7, "name": "cell"}]}
        | {"annotations": [{"id": 1, "image_id": 2, "category_id": 7, "bbox": [1, 2, 10, 12]}]}
    )
    mine = type("Mine", (datasets.COCODataset,), {})(ann_file, root, True, transforms=as_tensor)
    image, target, index = mine[0]
    assert image.shape == (3, 40, 30) and index == 0 and target.get_field("labels").tolist() == [1]
    dataset = as_dataset(mine)
    assert dataset.image_id(0) == 2 and dataset.category_names == ("cell",)
    assert dataset.contiguous_to_category_id == {1: 7} and dataset.image_path(0) == "2.png"
    found = dataset.ground_truth(0)
    found.add_field("scores", torch.ones(1))
    assert evaluate(dataset, {0: found})["bbox"]["AP"] == pytest.approx(1)
