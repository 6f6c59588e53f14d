"""Test the reading of annotation files: the arrays, and a message for each fault."""

import copy
import gzip
import json

import numpy as np
import pytest
from coco_trees import annotation, tree_of

from fcos_core.data.coco_json import read_coco_json
from fcos_core.errors import InputError

SIZES = [(40, 30), (30, 40)]


def write(tmp_path, tree) -> str:
    path = tmp_path / "ann.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree), encoding="utf-8")
    return str(path)


def test_arrays_follow_the_order_of_image_ids(tmp_path):
    tree = {
        "images": [
            {"id": 9, "width": 40, "height": 30, "file_name": "b.png"},
            {"id": 4, "width": 20, "height": 10.0, "file_name": "a.png"},
        ],
        "categories": [{"id": 7, "name": "late"}, {"id": 3, "name": "early"}],
        "annotations": [
            annotation(1, 9, [0, 0, 5, 6], 7, area=11.5, iscrowd=1),
            annotation(2, 4, [1, 1, 2, 2], 3),
            annotation(3, 9, [2, 2, 3.5, 4], 3),
        ],
    }
    table = read_coco_json(write(tmp_path, tree))
    assert table.image_ids.tolist() == [4, 9]
    assert table.sizes.tolist() == [[20, 10], [40, 30]]
    assert table.file_names.tolist() == ["a.png", "b.png"]
    assert table.category_ids == (3, 7) and table.category_names == ("early", "late")
    assert table.offsets.tolist() == [0, 1, 3]
    assert table.labels.tolist() == [1, 2, 1]
    assert table.annotation_ids.tolist() == [2, 1, 3]
    np.testing.assert_array_equal(table.boxes, [[1, 1, 2, 2], [0, 0, 5, 6], [2, 2, 3.5, 4]])
    assert table.crowd.tolist() == [False, True, False]
    # An annotation without an area gets the area of its box, width x height.
    assert table.areas.tolist() == [4.0, 11.5, 14.0]


def test_the_coco_dict_says_what_the_file_said(tmp_path):
    tree = tree_of(SIZES, boxes_each=2)
    for entry in tree["annotations"]:
        entry.update(area=7.5, iscrowd=0)
    rebuilt = read_coco_json(write(tmp_path, tree)).as_coco_dict()
    assert {**rebuilt, "info": None} == {**tree, "info": None}


@pytest.mark.parametrize("ids", [[0, 1], [5, 5], [None, 3]])
def test_annotation_ids_that_evaluation_cannot_use_are_numbered_anew(tmp_path, ids):
    tree = tree_of(SIZES)
    for entry, number in zip(tree["annotations"], ids, strict=True):
        entry["id"] = number
    assert read_coco_json(write(tmp_path, tree)).annotation_ids.tolist() == [1, 2]


@pytest.mark.parametrize("absent", [("annotations",), ("annotations", "categories")])
def test_a_file_without_annotations_is_read_as_a_test_set(tmp_path, absent):
    tree = tree_of(SIZES)
    for key in absent:
        del tree[key]
    table = read_coco_json(write(tmp_path, tree))
    assert not table.has_annotations
    assert table.category_names == (() if "categories" in absent else ("cell",))
    assert table.offsets.tolist() == [0, 0, 0]
    assert table.as_coco_dict()["annotations"] == []


def test_polygons_are_dropped_and_a_byte_order_mark_is_read(tmp_path):
    tree = tree_of(SIZES)
    tree["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    path = tmp_path / "bom.json"
    path.write_text(json.dumps(tree), encoding="utf-8-sig")
    assert "segmentation" not in read_coco_json(str(path)).as_coco_dict()["annotations"][0]


def test_a_missing_file_is_named_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"'no\.json' does not exist \(looked at /.*/no\.json\)"):
        read_coco_json("no.json")


def test_a_truncated_file_is_named_with_the_position(tmp_path):
    text = '{"images": [\n{"id": 1, "wid'
    # The unfinished string opens at the 11th character of line 2, the 24th (from 0: 23) of the file.
    with pytest.raises(InputError, match=r"ann\.json.*line 2, column 11 \(character 23\).*cut short"):
        read_coco_json(write(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'\x89PNG\xff\xfe"\x80', "JSON"),
        (b"", "is empty: copy or export it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\n", "is a Git LFS pointer.*git lfs pull"),
        (gzip.compress(b"{}", mtime=0), "is compressed with gzip: unpack"),
        (b"PK\x03\x04rest", "is a zip archive: unpack"),
    ],
)
def test_another_file_in_the_place_of_json_is_named(tmp_path, content, sentence):
    path = tmp_path / "ann.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"ann\.json.*{sentence}"):
        read_coco_json(str(path))


def test_a_folder_is_not_said_to_be_missing(tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        read_coco_json(str(tmp_path))


def changed(path: str, value) -> dict:
    """Return a correct tree with the value at `path`, such as images/0/width, replaced, or deleted if it is `...`."""
    tree = copy.deepcopy(tree_of(SIZES))
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    node = tree
    for step in steps:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return tree


FAULTS = [
    ("images", ..., r"has no 'images'"),
    ("images", [], r"lists no images"),
    ("images", {}, r"'images' that is not a list"),
    ("images/1", 3, r"entry 2 of 'images' is 3"),
    ("images/1/id", ..., r"entry 2 of 'images' has no id"),
    ("images/1/id", "2", r"entry 2 of 'images' has id '2', which is text: give an integer"),
    ("images/1/id", 2.5, r"entry 2 of 'images' has id 2.5: give an integer"),
    ("images/1/id", True, r"entry 2 of 'images' has id True, which is true or false: give an integer"),
    ("images/1/id", None, r"entry 2 of 'images' has id None, which is null: give an integer"),
    ("images/1/id", 2**63, r"entry 2 of 'images' has id 9223372036854775808: .* fits into 64 bits"),
    ("images/1/id", 1e300, r"entry 2 of 'images' has id 1e\+300: .* fits into 64 bits"),
    ("images/1/id", 1, r"image id 1 appears 2 times"),
    ("images/0/width", ..., r"image 1 has no width"),
    ("images/1/height", ..., r"image 2 has no height"),
    ("images/1/height", 0, r"image 2 has height 0: give an integer of at least 1"),
    ("images/1/width", float("nan"), r"image 2 has width nan"),
    ("images/1/width", 640.5, r"image 2 has width 640.5: give an integer"),
    ("images/1/width", "640", r"image 2 has width '640', which is text: give an integer"),
    ("images/1/height", -30, r"image 2 has height -30: give an integer of at least 1"),
    ("images/1/height", 10**9, r"image 2 has height 1000000000: give an integer of at least 1 and at most 16777216"),
    ("images/0/file_name", 7, r"image 1 has file_name 7: give a text"),
    ("images/0/file_name", ..., r"image 1 has no file_name"),
    ("images/0/file_name", "", r"image 1 has file_name ''"),
    ("images/0/file_name", "  ", r"image 1 has file_name '  ', which is text: give a text that is not blank"),
    ("categories", ..., r"has no 'categories'"),
    ("categories", [], r"lists no categories"),
    ("categories/0/id", ..., r"entry 1 of 'categories' has no id"),
    ("categories/0/id", "1", r"entry 1 of 'categories' has id '1', which is text: give an integer"),
    ("categories/0/id", -(2**70), r"entry 1 of 'categories' has id -1180591620717411303424: .* fits into 64 bits"),
    ("categories/0/name", 1, r"category 1 has name 1: give a text"),
    ("categories/0/name", ..., r"category 1 has no name"),
    ("categories/0/name", "\n", r"category 1 has name '\\n', which is text: give a text that is not blank"),
    ("categories", [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], r"category id 1 appears 2 times"),
    ("annotations", None, r"'annotations' that is not a list"),
    ("annotations/1/image_id", 77, r"annotation 2 names image 77, which 'images' does not list"),
    ("annotations/1/image_id", [1], r"annotation 2 has image_id \[1\], which is a list: .* integer"),
    ("annotations/1/image_id", ..., r"annotation 2 has no image_id"),
    ("annotations/1/image_id", "2", r"annotation 2 has image_id '2', which is text: .* integer"),
    ("annotations/1/image_id", 2.5, r"annotation 2 has image_id 2.5: .* integer"),
    ("annotations/1/image_id", 10**4000, r"annotation 2 has image_id 10*\.\.\.0*: .* fits into 64 bits"),
    ("annotations/1/category_id", "1", r"annotation 2 of image 2 has category_id '1', which is text: .* integer"),
    ("annotations/1/category_id", 5, r"annotation 2 of image 2 names category 5, which 'categories'"),
    ("annotations/1/bbox", ..., r"annotation 2 of image 2 has no bbox: give four numbers"),
    ("annotations/1/bbox", [1, 2, 3], r"annotation 2 of image 2 has bbox \[1, 2, 3\]: give four numbers"),
    (
        "annotations/1/bbox",
        [1, 2, 3, "4"],
        r"annotation 2 of image 2 has bbox .*, where '4' is text: give four numbers",
    ),
    ("annotations/1/bbox", [1, None, 3, 4], r"annotation 2 of image 2 has bbox .*, where None is null: give four"),
    ("annotations/1/bbox", [True, 2, 3, 4], r"annotation 2 of image 2 has bbox .*, where True is true or false"),
    ("annotations/1/bbox", [1e30, 2, 3, 4], r"annotation 2 of image 2 has bbox .* beyond 16777216 pixels"),
    ("annotations/1/bbox", [1, 2, 10**400, 4], r"annotation 2 of image 2 has bbox .* beyond 16777216 pixels"),
    ("annotations/1/bbox", [1, 2, float("nan"), 4], r"annotation 2 of image 2 .* not finite"),
    ("annotations/1/bbox", [1, 2, 3, float("inf")], r"annotation 2 of image 2 .* not finite"),
    ("annotations/1/bbox", [1, 2, -3, 4], r"annotation 2 of image 2 .* negative width or height"),
    ("annotations/1/bbox", [1, 2, 3, -0.5], r"annotation 2 of image 2 .* negative width or height"),
    ("annotations/1/iscrowd", "0", r"annotation 2 of image 2 has iscrowd '0', which is text: give 0 or 1"),
    ("annotations/1/iscrowd", 2, r"annotation 2 of image 2 has iscrowd 2: give 0 or 1"),
    ("annotations/1/iscrowd", -1, r"annotation 2 of image 2 has iscrowd -1: give 0 or 1"),
    ("annotations/1/area", "120", r"annotation 2 of image 2 has area '120', which is text: give 0 to"),
    ("annotations/1/area", True, r"annotation 2 of image 2 has area True, which is true or false"),
    ("annotations/1/area", -120, r"annotation 2 of image 2 has area -120: give 0 to 10000000000 square pixels"),
    ("annotations/1/area", float("nan"), r"annotation 2 of image 2 has area nan"),
    ("annotations/1/area", float("-inf"), r"annotation 2 of image 2 has area -inf"),
    ("annotations/1/area", 1e11, r"annotation 2 of image 2 has area 100000000000.0"),
]


def test_whole_numbers_may_be_floats_and_flags_may_be_booleans(tmp_path):
    tree = tree_of(SIZES)
    expected = read_coco_json(write(tmp_path, tree)).as_coco_dict()
    for entry in (*tree["images"], *tree["categories"], *tree["annotations"]):
        for key in entry.keys() & {"id", "width", "height", "image_id", "category_id"}:
            entry[key] = float(entry[key])
    tree["annotations"][0] |= {"iscrowd": False, "area": None}
    tree["annotations"][1] |= {"iscrowd": None}
    table = read_coco_json(write(tmp_path, tree))
    assert table.as_coco_dict() == expected
    assert json.dumps(table.as_coco_dict()) == json.dumps(expected)  # 1 == 1.0, but their texts differ
    tree["annotations"][1]["iscrowd"] = True
    assert read_coco_json(write(tmp_path, tree)).crowd.tolist() == [False, True]


def test_annotation_ids_of_another_type_are_said_to_be_numbered_anew(tmp_path, caplog):
    caplog.set_level("INFO")
    tree = tree_of(SIZES)
    tree["annotations"][1]["id"] = "b7"
    assert read_coco_json(write(tmp_path, tree)).annotation_ids.tolist() == [1, 2]
    assert "numbered anew, from 1, because of their ids: one has id 'b7', which is text" in caplog.text


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_section_that_stands_twice_is_refused(tmp_path, key):
    text = json.dumps(tree_of(SIZES))
    with pytest.raises(InputError, match=rf"ann\.json' has '{key}' twice"):
        read_coco_json(write(tmp_path, f'{text[:-1]}, "{key}": []}}'))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "[" * 100_000, '{"info": 1' + "0" * 5000 + "}"])
def test_a_text_beyond_the_parser_is_one_sentence(tmp_path, text):
    with pytest.raises(InputError, match=r"ann\.json' (must be|has lists|is not valid)"):
        read_coco_json(write(tmp_path, text))


@pytest.mark.parametrize(("path", "value", "sentence"), FAULTS)
def test_each_fault_has_its_sentence(tmp_path, path, value, sentence):
    ann_file = write(tmp_path, changed(path, value))
    with pytest.raises(InputError, match=sentence) as caught:
        read_coco_json(ann_file)
    assert ann_file in str(caught.value)


def test_a_list_of_results_is_not_a_ground_truth(tmp_path):
    with pytest.raises(InputError, match=r"must be a JSON object .* it is a list"):
        read_coco_json(write(tmp_path, "[]"))


def test_an_annotation_without_id_is_named_by_its_place(tmp_path):
    tree = changed("annotations/1/bbox", [])
    del tree["annotations"][1]["id"]
    with pytest.raises(InputError, match=r"annotation number 2 \(it has no id\)"):
        read_coco_json(write(tmp_path, tree))
