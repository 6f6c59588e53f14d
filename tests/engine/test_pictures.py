"""Pictures of a run: every file that tests and trainings leave is drawn or answered with a sentence."""

import json
import logging
import os

import pytest
from PIL import Image

from fcos_core.config import cfg
from fcos_core.engine.pictures import draw_run
from fcos_core.errors import InputError

CATEGORIES = [{"id": 3, "name": "Café"}, {"id": 9, "name": "dog"}]
DETECTION = {"image_id": 1, "category_id": 9, "bbox": [10, 10, 30, 20], "score": 0.8}


class Run:
    """A folder with a dataset of four images and the files of a tested training."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        images = []
        # Two images of one name in two folders, a name that is not ASCII, and one with a space.
        for number, name in enumerate(("a/1.png", "b/1.png", "Ärger/猫.png", "x y.png"), 1):
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48), (60 * number, 0, 0)).save(path)
            images.append({"id": number, "file_name": name, "width": 64, "height": 48})
        self.content = {"images": images, "categories": CATEGORIES, "annotations": []}
        self.config = cfg.clone()
        key = "DATASETS.CATALOG.own"
        paths = [f"{key}.img_dir", str(folder / "images"), f"{key}.ann_file", str(folder / "own.json")]
        self.config.merge_from_list(["OUTPUT_DIR", str(self.out), "DATASETS.TEST", ("own",), *paths])
        self.config.MODEL.FCOS.NUM_CLASSES = 3
        (self.out / "inference" / "own").mkdir(parents=True)
        self.detections = self.out / "inference" / "own" / "bbox.json"

    def draw(self, detections, count=12, threshold=0.3):
        """Write the detections, draw, and return the names of the pictures."""
        (self.folder / "own.json").write_text(json.dumps(self.content))
        self.detections.write_text(detections if isinstance(detections, str) else json.dumps(detections))
        draw_run(self.config, count, threshold)
        return sorted(path.relative_to(self.out / "pictures").as_posix() for path in self.out.rglob("*.png"))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture(autouse=True)
def info(caplog):
    caplog.set_level(logging.INFO)


def test_each_image_has_its_own_picture_named_by_its_id(run, caplog):
    assert run.draw([DETECTION, {**DETECTION, "score": 0.1}]) == [f"own/{number}.png" for number in (1, 2, 3, 4)]
    reds = [Image.open(run.out / "pictures" / "own" / f"{number}.png").getpixel((0, 0))[0] for number in (1, 2, 3, 4)]
    assert reds == [60, 120, 180, 240]
    assert "Drew 4 images with 1 detections of 0.3 or more in" in caplog.text


@pytest.mark.parametrize("lacking", [("annotations",), ("annotations", "categories")])
def test_a_test_set_with_images_alone(run, lacking):
    for key in lacking:
        del run.content[key]
    # Without categories, the ids of detections are labels.
    assert len(run.draw([{**DETECTION, "category_id": 9 if len(lacking) == 1 else 2}])) == 4


def test_whole_floats_are_ids_and_no_detections_are_no_fault(run):
    assert len(run.draw([{**DETECTION, "image_id": 1.0, "category_id": 9.0}])) == 4
    assert run.draw([], count=2) == [f"own/{number}.png" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": 77}, "has image_id 77, but the annotation file lists no such image"),
        ({"image_id": "1"}, "has image_id '1', which is text, but"),
        ({"image_id": True}, "has image_id True, which is true or false, but"),
        ({"image_id": [1]}, r"has image_id \[1\], which is a list, but"),
        ({"category_id": 1}, "has category_id 1, but the annotation file lists no such category"),
        ({"category_id": None}, "has category_id None, which is null, but"),
        ({"bbox": [1, 2, 3]}, r"has bbox \[1, 2, 3\]: give four numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, r"has bbox \[1, 2, 3, nan\], which is not finite"),
        ({"bbox": "1 2 3 4"}, "has bbox '1 2 3 4': give four numbers"),
        ({"score": "high"}, "has score 'high', which is text: give a finite number"),
        ({"score": float("inf")}, "has score inf: give a finite number"),
    ],
)
def test_detections_that_do_not_belong_to_the_dataset(run, change, sentence):
    with pytest.raises(InputError, match=rf"bbox\.json': detection 2 {sentence}.* run tools/test_net\.py again"):
        run.draw([DETECTION, {**DETECTION, **change}])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty: copy or export it again"),
        ('[{"image_id": 1,', "is not valid JSON"),
        ("[] []", "is not valid JSON"),
        ('[{"image_id": 1' + 5000 * "0" + "}]", "bbox.json"),
        (100_000 * "[", "bbox.json"),
        ("{}", "is an object, not a list of detections"),
        ('{"annotations": []}', "is an object, not a list of detections"),
        ("7", "is not a list"),
        ("[7]", "entry 1 of 'detections' is 7: each entry must be an object"),
        ("[{}]", "detection 1 has no image_id"),
    ],
)
def test_a_file_that_holds_no_detections(run, content, sentence):
    with pytest.raises(InputError, match=sentence):
        run.draw(content)


def test_labels_of_a_file_without_categories_have_the_names_that_the_detector_had(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "fcos_core.engine.pictures.draw_detections", lambda _image, _boxes, names, *_: drawn.append(names)
    )
    del run.content["categories"], run.content["annotations"]
    run.detections.with_name("label_names.json").write_text('["dog", "cat"]')
    run.draw([{**DETECTION, "category_id": 2}], count=1)
    assert drawn == [("dog", "cat")]
    for content in ("[1]", "{}", "["):
        run.detections.with_name("label_names.json").write_text(content)
        with pytest.raises(InputError, match=r"label_names\.json"):
            run.draw([], count=1)


def test_before_the_test_has_run(run):
    (run.folder / "own.json").write_text(json.dumps(run.content))
    with pytest.raises(InputError, match=r"bbox\.json' does not exist: run tools/test_net\.py"):
        draw_run(run.config, 1, 0.3)


def test_an_unreadable_image_ends_the_drawing_unless_it_may_be_skipped(run, caplog):
    path = run.folder / "images" / "a" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"a/1\.png.*set DATALOADER\.SKIP_UNREADABLE True"):
        run.draw([DETECTION])
    run.config.DATALOADER.SKIP_UNREADABLE = True
    # The next image takes its turn.
    assert run.draw([DETECTION], count=2) == ["own/2.png", "own/3.png"]
    assert "Skipped the unreadable image" in caplog.text and "SKIP_UNREADABLE" not in caplog.text
    for name in ("b/1.png", "Ärger/猫.png", "x y.png"):
        (run.folder / "images" / name).unlink()
    with pytest.raises(InputError, match="None of the 4 images") as caught:
        run.draw([DETECTION])
    assert "SKIP_UNREADABLE" not in str(caught.value)


def test_a_training_that_has_just_begun_has_no_curve_but_pictures(run, caplog):
    run.out.mkdir(exist_ok=True)
    (run.out / "metrics.jsonl").write_text('{"iteration": 20, "lo')
    assert len(run.draw([DETECTION])) == 4
    assert "No loss curve: " in caplog.text and "holds no loss to draw" in caplog.text
    (run.out / "metrics.jsonl").write_text('{"iteration": 20, "loss": 1.0}\n')
    assert "losses.png" in run.draw([DETECTION])


def test_a_folder_that_cannot_be_written_to(run):
    (run.out / "pictures").write_text("a file is in the way")
    with pytest.raises(InputError, match=r"pictures/own' cannot be written .*OUTPUT_DIR to another"):
        run.draw([DETECTION])


def test_a_full_disk(run, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("PIL.Image.Image.save", full)
    (run.folder / "own.json").write_text(json.dumps(run.content))
    run.detections.write_text("[]")
    with pytest.raises(InputError, match=r"own/1\.png' cannot be written \(No space left"):
        draw_run(run.config, 1, 0.3)


@pytest.mark.parametrize(("count", "test", "sentence"), [(0, ("own",), "--count is 0"), (1, (), "DATASETS.TEST is")])
def test_nothing_to_draw(run, count, test, sentence):
    run.config.DATASETS.TEST = test
    with pytest.raises(InputError, match=sentence):
        draw_run(run.config, count, 0.3)
