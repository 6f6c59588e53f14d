"""Pascal VOC, YOLO and CSV to COCO: boxes, splits, and each fault by file and line."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcos_core.commands.convert import main
from fcos_core.data.coco import COCODataset
from fcos_core.data.formats.convert import convert, sniff_format
from fcos_core.data.formats.measure import _STORED, measure
from fcos_core.data.formats.source import AnnotatedImage, Box
from fcos_core.data.formats.split import stratified_split
from fcos_core.data.image_facts import ImageFacts
from fcos_core.data.image_file import read_image
from fcos_core.errors import InputError

WIDTH, HEIGHT = 40, 30


def draw(path, size=(WIDTH, HEIGHT), seed=0, orientation=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def xml(boxes, name="a.jpg", size=(WIDTH, HEIGHT), extra=""):
    objects = "\n".join(
        f"<object><name>{label}</name>{extra}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2 in boxes
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>\n<filename>{name}</filename>{stated}\n{objects}\n</annotation>\n"


class Voc:
    """A VOC folder with one good image, cat.jpg, to which tests add."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder / "voc", folder / "out"
        self.add("cat", xml([("cat", 1, 1, 10, 10)], "cat.jpg"))

    def add(self, stem, text, image=True, **options):
        annotations = self.folder / "Annotations"
        annotations.mkdir(parents=True, exist_ok=True)
        (annotations / f"{stem}.xml").write_text(text)
        if image:
            draw(self.folder / "JPEGImages" / f"{stem}.jpg", seed=len(list(annotations.iterdir())), **options)

    def convert(self, **options):
        return convert(self.folder, self.out, **options)

    def boxes(self, split="train"):
        return boxes_of(self.out, split)


def boxes_of(out, split="train"):
    """Return {file name: [(class, bbox, iscrowd), ...]} of a written file."""
    content = json.loads((out / f"{split}.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    found = {entry["file_name"]: [] for entry in content["images"]}
    files = {entry["id"]: entry["file_name"] for entry in content["images"]}
    for entry in content["annotations"]:
        found[files[entry["image_id"]]].append((names[entry["category_id"]], entry["bbox"], entry["iscrowd"]))
    return found


@pytest.fixture
def voc(tmp_path):
    return Voc(tmp_path)


def texts(result):
    return [str(problem) for problem in result.problems]


# ---------------------------------------------------------------------------------------------- boxes

corner_pairs = st.tuples(
    st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1)
).filter(lambda box: box[0] < box[2] and box[1] < box[3])


@settings(max_examples=8)
@given(st.lists(corner_pairs, min_size=1, max_size=4, unique=True))
def test_voc_boxes_are_the_pixels_that_were_marked(tmp_path_factory, pixels):
    """Columns x1 to x2 from 0, both marked, are x1 + 1 to x2 + 1 in VOC, and x = x1, width = x2 - x1 + 1 in COCO."""
    voc = Voc(tmp_path_factory.mktemp("voc"))
    voc.add("a", xml([("dog", x1 + 1, y1 + 1, x2 + 1, y2 + 1) for x1, y1, x2, y2 in pixels]))
    assert texts(voc.convert()) == []
    expected = [("dog", [x1, y1, x2 - x1 + 1, y2 - y1 + 1], 0) for x1, y1, x2, y2 in pixels]
    assert voc.boxes()["a.jpg"] == expected


edges = st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT), st.floats(0, WIDTH), st.floats(0, HEIGHT)).filter(
    lambda box: box[2] - box[0] > 0.01 and box[3] - box[1] > 0.01
)


@settings(max_examples=8)
@given(st.lists(edges, min_size=1, max_size=4, unique=True))
def test_yolo_and_csv_boxes_come_back(tmp_path_factory, boxes):
    folder = tmp_path_factory.mktemp("both")
    draw(folder / "images" / "a.jpg")
    lines = [
        f"1 {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}"
        for x1, y1, x2, y2 in boxes
    ]
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    rows = [f"images/a.jpg,{x1!r},{y1!r},{x2!r},{y2!r},dog" for x1, y1, x2, y2 in boxes]
    (folder / "boxes.csv").write_text("file,xmin,ymin,xmax,ymax,class\n" + "\n".join(rows))
    for format in ("yolo", "csv"):
        result = convert(folder, folder / format, format=format)
        assert texts(result) == []
        found = boxes_of(folder / format)["a.jpg"]
        assert [name for name, _, _ in found] == ["dog"] * len(boxes)
        expected = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes]
        assert np.abs(np.array([box for _, box, _ in found]) - expected).max() < 1e-6


def test_what_is_written_can_be_trained_on(voc, tmp_path):
    voc.convert()
    dataset = COCODataset(str(voc.folder / "JPEGImages"), str(voc.out / "train.json"), is_train=True)
    image, boxes = dataset[0]
    assert image.size == (WIDTH, HEIGHT) and boxes.bbox.tolist() == [[0, 0, 9, 9]]


def test_pixels_from_zero(voc):
    voc.convert(first_pixel=0)
    assert voc.boxes()["cat.jpg"] == [("cat", [1, 1, 9, 9], 0)]


def test_difficult_objects_are_ignored(voc):
    voc.add("a", xml([("cat", 1, 1, 5, 5)], extra="<difficult>1</difficult>"))
    voc.convert()
    assert voc.boxes()["a.jpg"] == [("cat", [0, 0, 5, 5], 1)]


def test_an_xml_file_without_objects_is_an_empty_image(voc):
    voc.add("a", xml([]))
    assert texts(voc.convert()) == []
    assert voc.boxes()["a.jpg"] == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_exif_orientation(tmp_path, orientation):
    """YOLO's shares are of the picture that viewers show: after `read_image` the box must hold the same pixels."""
    for size in ((40, 24), (32, 32)):
        folder = tmp_path / f"{size[0]}"
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[2:7, 3:12] = 255  # one white box
        exif = Image.Exif()
        exif[0x112] = orientation
        (folder / "images").mkdir(parents=True)
        Image.fromarray(pixels).save(folder / "images" / "a.png", exif=exif)
        upright = np.asarray(read_image(folder / "images" / "a.png"))[..., 0] > 0
        ys, xs = np.nonzero(upright)
        height, width = upright.shape
        x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        line = f"0 {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}"
        (folder / "labels").mkdir()
        (folder / "labels" / "a.txt").write_text(line)
        (folder / "data.yaml").write_text("train: images\nnames: [thing]\n")
        convert(folder, folder / "out")
        image, boxes = COCODataset(str(folder / "images"), str(folder / "out" / "train.json"))[0]
        x1, y1, x2, y2 = boxes.bbox[0].int().tolist()
        inside = np.zeros(image.size[::-1], bool)
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
        assert (inside == (np.asarray(image)[..., 0] > 0)).all()
    assert orientation == 1 or orientation in _STORED


def test_a_voc_size_tells_which_picture_is_meant(voc):
    voc.add("stored", xml([("cat", 1, 1, 30, 10)], size=(WIDTH, HEIGHT)), orientation=6)
    voc.add("turned", xml([("cat", 1, 1, 10, 35)], size=(HEIGHT, WIDTH)), orientation=6)
    voc.add("unclear", xml([("cat", 1, 1, 10, 10)]), orientation=3)
    result = voc.convert()
    assert voc.boxes()["stored.jpg"] == [("cat", [0, 0, 30, 10], 0)]
    assert voc.boxes()["turned.jpg"] == [("cat", [0, 0, 10, 35], 0)]
    assert len(texts(result)) == 1 and "EXIF turns unclear.jpg (orientation 3)" in texts(result)[0]


# --------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        (xml([("cat", 1, 1, 5, 5)])[:80], ":2", "XML is broken: unclosed token"),
        ("", ":1", "XML is broken: no element found"),
        ("<kml/>", ":1", "holds <kml>, not <annotation>"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>\n<annotation>&b;</annotation>", ":1", "defines the entity 'b'"),
        (xml([("", 1, 1, 5, 5)]), ":3", "an <object> has no <name>"),
        (xml([("cat", "many", 1, 5, 5)]), ":3", "<xmin> of 'cat' is 'many', which is no number"),
        (xml([("cat", "nan", 1, 5, 5)]), ":3", "<xmin> of 'cat' is 'nan', which is no number"),
        (xml([]).replace("</annotation>", "<object><name>cat</name></object></annotation>"), ":4", "has no <bndbox>"),
        (xml([("cat", 1, 1, 5, 5)], size=(99, 99)), "", "is about 99x99 pixels, but .* has 40x30"),
    ],
)
def test_a_bad_xml_file_is_named_and_left_out(voc, text, line, fault):
    voc.add("bad", text)
    result = voc.convert()
    assert list(voc.boxes()) == ["cat.jpg"]
    (problem,) = result.problems
    assert problem.where == f"{voc.folder}/Annotations/bad.xml{line}"
    assert problem.left_out == "image" and re.search(fault, problem.fault)
    assert (voc.out / "problems.txt").read_text() == f"{problem}\n"


@pytest.mark.parametrize(
    ("box", "expected", "fault"),
    [
        ((35, 1, 60, 10), [34, 0, 6, 10], "goes beyond its image of 40x30; it is clipped"),
        ((50, 50, 60, 60), None, r"outside its image of 40x30 \(the box is left out\)"),
        ((10, 10, 9, 20), None, r"has no extent \(the box is left out\)"),
        ((20, 15, 11, 6), [10, 5, 10, 10], None),
    ],
)
def test_a_bad_box_is_named(voc, box, expected, fault):
    if fault is None:  # corners in the wrong order: 19..11 and 14..6 are edges after the conversion
        expected, fault = [11, 6, 8, 8], "wrong order; they are exchanged"
    voc.add("a", xml([("cat", *box), ("cat", 1, 1, 4, 4)]))
    result = voc.convert()
    found = [kept for _, kept, _ in voc.boxes()["a.jpg"]]
    assert found == ([expected] if expected else []) + [[0, 0, 4, 4]]
    assert len(result.problems) == 1 and re.search(rf"a\.xml:3: .*{fault}", texts(result)[0])


def test_boxes_that_stand_twice_are_kept_once(voc):
    voc.add("a", xml([("cat", 1, 1, 4, 4), ("dog", 1, 1, 4, 4), ("cat", 1, 1, 4, 4)]))
    result = voc.convert()
    assert [name for name, _, _ in voc.boxes()["a.jpg"]] == ["cat", "dog"]
    assert texts(result) == [
        f"{voc.folder}/Annotations/a.xml:5: the box of 'cat' stands here twice (the box is left out)"
    ]


def test_missing_damaged_and_unannotated_images(voc):
    voc.add("gone", xml([("cat", 1, 1, 4, 4)], "gone.jpg"), image=False)
    voc.add("half", xml([("cat", 1, 1, 4, 4)], "half.jpg"))
    path = voc.folder / "JPEGImages" / "half.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    draw(voc.folder / "JPEGImages" / "extra.jpg")
    found = "\n".join(texts(voc.convert()))
    assert list(voc.boxes()) == ["cat.jpg"]
    assert "gone.xml: its image is missing: neither gone.* nor the <filename> 'gone.jpg'" in found
    assert "half.jpg: image file is truncated" in found
    assert "extra.jpg: no XML file is about it (the image is left out)" in found


def test_file_names_of_other_systems(voc):
    voc.add("DSC1", xml([("cat", 1, 1, 4, 4)], "C:\\photos\\DSC1.JPG"), image=False)
    draw(voc.folder / "JPEGImages" / "DSC1.jpg", seed=5)
    os.rename(voc.folder / "JPEGImages" / "DSC1.jpg", voc.folder / "JPEGImages" / "DSC1.JPG")
    voc.add("other", xml([("cat", 1, 1, 4, 4)], "D:\\x\\7.jpg"), image=False)
    draw(voc.folder / "JPEGImages" / "7.jpg", seed=6)
    assert texts(voc.convert()) == []
    assert set(voc.boxes()) == {"cat.jpg", "DSC1.JPG", "7.jpg"}


def test_a_file_name_that_is_not_utf_8(voc):
    try:
        os.rename(voc.folder / "JPEGImages" / "cat.jpg", os.fsencode(voc.folder / "JPEGImages") + b"/c\xe4t.jpg")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    os.rename(voc.folder / "Annotations" / "cat.xml", os.fsencode(voc.folder / "Annotations") + b"/c\xe4t.xml")
    voc.convert()
    image, _ = COCODataset(str(voc.folder / "JPEGImages"), str(voc.out / "train.json"), is_train=True)[0]
    assert image.size == (WIDTH, HEIGHT)


def test_two_images_of_one_name(voc):
    draw(voc.folder / "JPEGImages" / "cat.png", seed=9)
    assert set(voc.convert().images["train"][0].source.path.name.split()) == {"cat.jpg"}  # as <filename> says
    voc.add("cat", xml([("cat", 1, 1, 4, 4)], "unknown"), image=False)
    with pytest.raises(InputError, match=r"2 image files fit to 'cat'"):
        voc.convert(overwrite=True)


def test_an_image_with_another_images_file_name(voc):
    voc.add("a", xml([("dog", 1, 1, 4, 4)], "cat.jpg"))
    result = voc.convert()
    assert [name for name, _, _ in voc.boxes()["a.jpg"]] == ["dog"]
    assert len(result.problems) == 1 and "<filename> is 'cat.jpg', another image" in texts(result)[0]


def test_classes(voc):
    voc.add("a", xml([("Cat", 1, 1, 4, 4), ("dog", 1, 1, 4, 4)]))
    result = voc.convert()
    assert result.class_names == ["Cat", "cat", "dog"]
    assert texts(result) == ["classes: 'Cat' and 'cat' differ in case, spaces or hyphens alone"]
    result = voc.convert(class_names=["dog", "cat"], overwrite=True)
    assert result.class_names == ["dog", "cat"] and list(voc.boxes()) == ["cat.jpg"]
    assert texts(result)[0].endswith("a.xml:3: the class 'Cat' is none of 'dog', 'cat' (the image is left out)")


def test_strict_writes_nothing(voc):
    voc.add("bad", "")
    with pytest.raises(
        InputError, match=r"has problems, and nothing is written. Problems .1.: .*bad\.xml:1: the XML is broken"
    ):
        voc.convert(strict=True)
    assert not list(voc.out.iterdir())


def test_nothing_is_overwritten_unless_asked(voc):
    voc.add("dog", xml([("cat", 1, 1, 10, 10)], "dog.jpg"))
    voc.convert(split=[1, 1])
    with pytest.raises(InputError, match=r"has train\.json, val\.json, datasets\.yaml already: name another folder"):
        voc.convert()
    voc.add("bad", "")
    with pytest.raises(InputError, match="nothing is written"):
        voc.convert(overwrite=True, strict=True)
    assert (voc.out / "train.json").exists() and (voc.out / "val.json").exists()
    voc.convert(overwrite=True)
    assert (voc.out / "train.json").exists() and not (voc.out / "val.json").exists()


def test_a_dataset_without_boxes_is_refused(tmp_path):
    draw(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 320 240 50 50\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: {0: cat}\n")
    with pytest.raises(
        InputError, match=r"no image with a usable box.*a\.txt:1.*labels are shares of width and height"
    ):
        convert(tmp_path, tmp_path / "out")


# ---------------------------------------------------------------------------------------------- yolo


def make_yolo(folder, labels="0 0.5 0.5 0.5 0.5\n", data="names: [cat, dog]\ntrain: images/train\nval: images/val\n"):
    for split in ("train", "val"):
        draw(folder / "images" / split / f"{split}.jpg", seed=len(split))
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "train.txt").write_text(labels)
    (folder / "data.yaml").write_text(data)
    return folder


def test_yolo_splits_and_images_without_labels(tmp_path):
    result = convert(make_yolo(tmp_path), tmp_path / "out")
    assert (result.format, result.class_names) == ("yolo", ["cat", "dog"])
    assert boxes_of(tmp_path / "out") == {"train/train.jpg": [("cat", [10, 7.5, 20, 15], 0)]}
    assert boxes_of(tmp_path / "out", "val") == {"val/val.jpg": []}


@pytest.mark.parametrize(
    "data",
    [
        "names: {0: cat, 1: dog}\npath: .\ntrain: images/train\nval: images/val\nnc: 2\n",
        "names: [cat, dog]\ntrain: ../images/train\nval: ../images/val\n",
        "names: [cat, dog]\ntrain: [images/train]\nval: val.txt\n",
        "names: [cat, dog]\ntrain: 'images\\train'\nval: images/val\n",
    ],
)
def test_yolo_paths(tmp_path, data):
    folder = make_yolo(tmp_path / "set", data=data)
    (folder / "val.txt").write_text("images/val/val.jpg\n./images/val/none.jpg\n")
    result = convert(folder, tmp_path / "out")
    assert [len(result.images[split]) for split in ("train", "val")] == [1, 1]
    missing = [f"{folder}/val.txt: the image './images/val/none.jpg' is missing (the image is left out)"]
    assert texts(result) == (missing if "val.txt" in data else [])


@pytest.mark.parametrize("option", [{"class_names": ["a"]}, {"images": Path(".")}, {"first_pixel": 0}])
def test_yolo_takes_no_options_that_data_yaml_answers(tmp_path, option):
    with pytest.raises(InputError, match="--first-pixel are for VOC and CSV"):
        convert(make_yolo(tmp_path), tmp_path / "out", **option)


def test_yolo_polygons_and_keypoints(tmp_path):
    polygon = "1 0.25 0.5 0.5 0.1 0.75 0.9"
    convert(make_yolo(tmp_path / "a", polygon), tmp_path / "out")
    ((_, box, _),) = boxes_of(tmp_path / "out")["train/train.jpg"]
    assert box == pytest.approx([10, 3, 20, 24])
    data = "names: [cat, dog]\ntrain: images/train\nkpt_shape: [1, 2]\n"
    convert(make_yolo(tmp_path / "b", "0 0.5 0.5 0.5 0.5 0.4 0.4", data), tmp_path / "out2")
    assert boxes_of(tmp_path / "out2")["train.jpg"] == [("cat", [10, 7.5, 20, 15], 0)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is none of 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is none of 0 to 1"),
        ("0 0.5 0.5 0.1", "it has 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "it has 6 numbers"),
        ("0 0.5 0.5 0.1 x", "a value is 'x', which is no number"),
    ],
)
def test_a_bad_label_line(tmp_path, line, fault):
    make_yolo(tmp_path, f"0 0.5 0.5 0.5 0.5\n{line}\n")
    draw(tmp_path / "images" / "train" / "good.jpg")
    (tmp_path / "labels" / "val").mkdir()
    (tmp_path / "labels" / "val" / "val.txt").write_text("1 0.5 0.5 0.5 0.5")
    (tmp_path / "labels" / "val" / "orphan.txt").write_text("1 0.5 0.5 0.5 0.5")
    result = convert(tmp_path, tmp_path / "out")
    assert list(boxes_of(tmp_path / "out", "train")) == ["train/good.jpg"]
    assert f"labels/train/train.txt:2: {fault}" in texts(result)[0]
    assert "orphan.txt: there is no image for this label file" in texts(result)[1]
    assert len(texts(result)) == 2


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("train: images/train\n", "needs names"),
        ("names: {1: cat}\ntrain: images/train\n", "needs names"),
        ("names: [cat]\nnc: 3\ntrain: images/train\n", "nc 3 but 1 names"),
        ("names: [cat\n", "cannot be read as YAML"),
        ("names: [cat]\ntrain: images/val\n", "None of the 1 images .* has a label file"),
        ("names: [cat]\ntrain: photos\n", "train names 'photos', which does not exist"),
    ],
)
def test_a_bad_data_yaml(tmp_path, data, fault):
    with pytest.raises(InputError, match=fault):
        convert(make_yolo(tmp_path, data=data) / "data.yaml", tmp_path / "out")


# ----------------------------------------------------------------------------------------------- csv


@pytest.mark.parametrize(
    "table",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,30,cat,1,2,11,22\n",
        "Label;X2;Y2;X1;Y1;Image Path\ncat;11;22;1;2;images\\a.jpg\n",
        "images/a.jpg,1,2,11,22,cat\n",
        "\ufefffile\tx_min\ty_min\tx_max\ty_max\tname\r\nA.JPG\t1\t2\t11\t22\tcat\r\n",
    ],
)
def test_csv_layouts(tmp_path, table):
    draw(tmp_path / "images" / "a.jpg")
    (tmp_path / "t.csv").write_text(table, encoding="utf-8")
    assert texts(convert(tmp_path, tmp_path / "out")) == []
    assert boxes_of(tmp_path / "out") == {"a.jpg": [("cat", [1, 2, 10, 20], 0)]}


def test_csv_faults(tmp_path):
    for number, name in enumerate(("a", "b", "empty", "extra", "c", "d", "e")):
        draw(tmp_path / f"{name}.jpg", seed=number)
    rows = ["a.jpg,1,1,9,9,cat", "empty.jpg,,,,,", "b.jpg,1,1,9,9,cat", "b.jpg,1,1,oops,9,cat", "gone.jpg,1,1,9,9,cat"]
    rows += ["gone.jpg,2,2,9,9,cat", ",1,1,9,9,cat", "c.jpg,1,1,9,9,", "d.jpg,1,1,9", "e.jpg,1,1,9,9,cat, black"]
    (tmp_path / "t.csv").write_text("file,xmin,ymin,xmax,ymax,class\n" + "\n".join(rows))
    result = convert(tmp_path, tmp_path / "out")
    assert boxes_of(tmp_path / "out") == {"a.jpg": [("cat", [1, 1, 8, 8], 0)], "empty.jpg": []}
    file = tmp_path / "t.csv"
    assert texts(result) == [
        f"{tmp_path}/extra.jpg: no row is about it (the image is left out)",
        f"{file}:10: the row has no class (the image is left out)",
        f"{file}:11: the row has more cells than the table has columns (black) (the image is left out)",
        f"{file}:5: xmax is 'oops', which is no number (the image is left out)",
        f"{file}:6: the image 'gone.jpg' is missing in {tmp_path} (the image is left out)",
        f"{file}:8: the row names no image file (the image is left out)",
        f"{file}:9: the row has no class (the image is left out)",
    ]


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("file,x,y,w,h,class\na.jpg,1,1,2,2,cat\n", "lack xmin, ymin, xmax, ymax"),
        ("file,path,xmin,ymin,xmax,ymax,class\n", "two columns may be 'file'"),
        ("1,2,3\n", "lack file"),
        ('a.jpg,1,1,2,2,"' + "x" * 140_000 + "\n", r"t\.csv', line 1: field larger than"),
    ],
)
def test_a_table_without_the_columns(tmp_path, table, fault):
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(InputError, match=fault):
        convert(tmp_path / "t.csv", tmp_path / "out")


def test_csv_files_of_splits(tmp_path):
    for number, split in enumerate(("train", "valid")):
        draw(tmp_path / split / f"{split}.jpg", seed=number)
        (tmp_path / f"{split}_labels.csv").write_text(f"{split}.jpg,1,1,9,9,cat\n")
    result = convert(tmp_path, tmp_path / "out")
    assert {split: len(images) for split, images in result.images.items()} == {"train": 1, "val": 1}


# -------------------------------------------------------------------------------------------- format


def test_the_format_is_sniffed_or_asked_for(voc, tmp_path):
    assert sniff_format(voc.folder) == "voc"
    (voc.folder / "t.csv").write_text("a")
    with pytest.raises(InputError, match=r"looks like csv and like voc: state its format with --format"):
        sniff_format(voc.folder)
    with pytest.raises(InputError, match=r"has no \.xml, no data\.yaml and no \.csv file"):
        sniff_format(voc.folder / "JPEGImages")
    with pytest.raises(InputError, match="'none' does not exist"):
        convert(Path("none"), tmp_path / "out")


# --------------------------------------------------------------------------------------------- split


def test_voc_lists_give_the_split(voc):
    for name in ("a", "b", "c"):
        voc.add(name, xml([("cat", 1, 1, 5, 5)], f"{name}.jpg"))
    lists = voc.folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("cat\na\nghost\n")
    (lists / "val.txt").write_text("b\na\n")
    (lists / "trainval.txt").write_text("cat\na\nb\n")
    (lists / "cat_train.txt").write_text("c 1\n")
    found = texts(voc.convert())
    assert (set(voc.boxes()), set(voc.boxes("val"))) == ({"cat.jpg", "a.jpg"}, {"b.jpg"})
    assert any("the list 'train' names 'ghost', which has no XML file" in text for text in found)
    assert any("c.xml: it is in none of the dataset's splits" in text for text in found)
    assert any("'a' is in several lists; the first by name counts" in text for text in found)
    assert len(found) == 3


labels = st.lists(st.lists(st.integers(0, 4), max_size=3, unique=True), min_size=30, max_size=80)


@settings(max_examples=20)
@given(labels, st.integers(0, 5))
def test_a_split_has_its_share_of_images_and_is_seeded(classes, seed):
    groups, shares = list(range(len(classes))), (0.7, 0.2, 0.1)
    chosen = stratified_split(classes, groups, shares, seed)
    assert chosen == stratified_split(classes, groups, shares, seed)
    for number, share in enumerate(shares):
        # Iterative stratification trades the size of a split for the classes in it, by a few images.
        assert abs(chosen.count(number) - share * len(classes)) <= 6


def test_a_split_has_its_share_of_every_class():
    """200 images with a class, of which 60, 30 and 10 have a second, third and fourth one."""
    classes = [[0, *[c for c, n in ((1, 60), (2, 30), (3, 10)) if i % 200 < n]] for i in range(200)]
    chosen = stratified_split(classes, list(range(200)), (0.8, 0.1, 0.1), seed=0)
    for label, count in enumerate((200, 60, 30, 10)):
        per_split = [
            sum(label in own for own, k in zip(classes, chosen, strict=True) if k == split) for split in range(3)
        ]
        assert per_split == [count * 8 // 10, count // 10, count // 10]
    assert chosen != stratified_split(classes, list(range(200)), (0.8, 0.1, 0.1), seed=1)


def test_copies_of_an_image_stay_together(voc):
    for number in range(12):
        voc.add(f"i{number}", xml([("cat", 1, 1, 5, 5)]))
    for number in range(3):
        voc.add(f"copy{number}", xml([("cat", 1, 1, 5, 5)]), image=False)
        image = voc.folder / "JPEGImages"
        (image / f"copy{number}.jpg").write_bytes((image / "i1.jpg").read_bytes())
    voc.convert(split=[0.5, 0.5], seed=3)
    parts = [set(voc.boxes(split)) for split in ("train", "val")]
    copies = {"copy0.jpg", "copy1.jpg", "copy2.jpg", "i1.jpg"}
    assert copies <= parts[0] or copies <= parts[1]
    assert {len(part) for part in parts} == {8}


def test_a_split_without_an_image_is_refused(voc):
    with pytest.raises(InputError, match="--split leaves no image for val of 1 usable ones"):
        voc.convert(split=[0.8, 0.2])
    assert not voc.out.exists() or not list(voc.out.iterdir())


# ------------------------------------------------------------------------------------------- command


def test_the_command_prints_counts_problems_and_files(voc, capsys):
    voc.add("bad", "")
    main([str(voc.folder), str(voc.out)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["Read as voc.", "          train", "images        1", "cat           1"]
    assert "1 problem; left out: 1 image and 0 boxes." in lines
    assert lines[-3:] == [f"Wrote {voc.out / name}" for name in ("train.json", "datasets.yaml", "problems.txt")]


@pytest.mark.parametrize("share", ["0.8", "1/0", "a/b", "1/1/1/1"])
def test_the_command_refuses_odd_shares(voc, capsys, share):
    with pytest.raises(SystemExit):
        main([str(voc.folder), str(voc.out), "--split", share])
    assert "is not two or three shares above 0" in capsys.readouterr().err


def test_a_box_a_hair_beyond_the_image_is_clipped_in_silence():
    facts = ImageFacts((10, 10), 1, b"", np.zeros(32, np.uint8))
    image = AnnotatedImage(Path("a"), Path("b"), [Box("c", (-0.5, 0, 10.9, 10), 1)])
    problems = []
    assert measure(image, facts, problems).boxes[0].edges == (0, 0, 10, 10) and problems == []
