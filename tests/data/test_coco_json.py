"""Test the reading of annotation files: the arrays, and a message for each fault."""

import copy
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


def test_a_binary_file_is_not_json(tmp_path):
    path = tmp_path / "ann.json"
    path.write_bytes(b'\x89PNG\xff\xfe"\x80')
    with pytest.raises(InputError, match=r"ann\.json.*JSON"):
        read_coco_json(str(path))


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
    ("images/1/id", "x", r"entry 2 of 'images' has id 'x'"),
    ("images/1/id", 1, r"image id 1 appears 2 times"),
    ("images/0/width", ..., r"image 1 has no width"),
    ("images/1/height", ..., r"image 2 has no height"),
    ("images/1/height", 0, r"image 2 has height 0: give an integer of at least 1"),
    ("images/1/width", float("nan"), r"image 2 has width nan"),
    ("images/0/file_name", ..., r"image 1 has no file_name"),
    ("images/0/file_name", "", r"image 1 has file_name ''"),
    ("categories", ..., r"has no 'categories'"),
    ("categories", [], r"lists no categories"),
    ("categories/0/id", ..., r"entry 1 of 'categories' has no id"),
    ("categories/0/name", ..., r"category 1 has no name"),
    ("categories", [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], r"category id 1 appears 2 times"),
    ("annotations", None, r"'annotations' that is not a list"),
    ("annotations/1/image_id", 77, r"annotation 2 names image 77, which 'images' does not list"),
    ("annotations/1/image_id", [1], r"annotation 2 names image \[1\]"),
    ("annotations/1/image_id", ..., r"annotation 2 names image None"),
    ("annotations/1/category_id", 5, r"annotation 2 of image 2 names category 5, which 'categories'"),
    ("annotations/1/bbox", ..., r"annotation 2 of image 2 has bbox None: give four numbers"),
    ("annotations/1/bbox", [1, 2, 3], r"annotation 2 of image 2 has bbox \[1, 2, 3\]: give four numbers"),
    ("annotations/1/bbox", [1, 2, 3, "4"], r"annotation 2 of image 2 has bbox .*: give four numbers"),
    ("annotations/1/bbox", [1, 2, float("nan"), 4], r"annotation 2 of image 2 .* not finite"),
    ("annotations/1/bbox", [1, 2, 3, float("inf")], r"annotation 2 of image 2 .* not finite"),
    ("annotations/1/bbox", [1, 2, -3, 4], r"annotation 2 of image 2 .* negative width or height"),
    ("annotations/1/bbox", [1, 2, 3, -0.5], r"annotation 2 of image 2 .* negative width or height"),
    ("annotations/1/iscrowd", "yes", r"annotation 2 of image 2 has iscrowd 'yes'"),
    ("annotations/1/area", "big", r"annotation 2 of image 2 has area 'big'"),
]


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
