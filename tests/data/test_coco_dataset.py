"""Test the datasets: images kept for training, their boxes, and the index for evaluation."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_trees import annotation, tree_of
from pycocotools.coco import COCO

from fcos_core.data.coco import COCODataset
from fcos_core.data.concat import ConcatCOCODataset, check_num_classes
from fcos_core.errors import InputError

SIZES = [(40, 30)] * 6


@pytest.fixture
def files(make_files):
    """Six images: a plain box, only a crowd box, a box 1 px wide, no box, one good and one bad box, zero width."""
    tree = tree_of(SIZES)
    tree["annotations"] = [
        annotation(1, 1, [1, 2, 10, 12]),
        annotation(2, 2, [1, 2, 10, 12], iscrowd=1),
        annotation(3, 3, [1, 2, 1, 12]),
        annotation(4, 5, [1, 2, 0, 12]),
        annotation(5, 5, [1, 2, 1.5, 1.5]),
        annotation(6, 6, [3, 2, 0, 12]),
    ]
    return make_files(tree)


def test_training_keeps_images_with_an_annotation_wider_and_higher_than_one_pixel(files):
    dataset = COCODataset(*files, is_train=True)
    # Image 2 has only a crowd annotation and is kept.
    assert [dataset.image_id(i) for i in range(len(dataset))] == [1, 2, 5]
    assert len(dataset.ground_truth(1)) == 0


def test_keep_empty_and_testing_keep_every_image(files):
    assert len(COCODataset(*files, is_train=True, keep_empty=True)) == 6
    assert len(COCODataset(*files)) == 6


def test_boxes_without_extent_are_left_out_with_one_warning_of_each_kind(files, caplog):
    dataset = COCODataset(*files)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[0].startswith("2 boxes of") and "no width or no height" in warnings[0]
    assert warnings[1].startswith("1 boxes of") and "annotation 3 of image 3" in warnings[1]
    assert len(dataset.ground_truth(5)) == 0


def test_ground_truth_is_inclusive_xyxy_clipped_without_crowd(make_files):
    tree = tree_of([(40, 30)])
    tree["categories"] = [{"id": 8, "name": "b"}, {"id": 2, "name": "a"}]
    tree["annotations"] = [
        annotation(1, 1, [1, 2, 10, 12], 8),
        annotation(2, 1, [-5, 20, 100, 100], 2),
        annotation(3, 1, [0, 0, 20, 20], 2, iscrowd=1),
        annotation(4, 1, [60, 5, 10, 10], 2),
    ]
    dataset = COCODataset(*make_files(tree), is_train=True)
    target = dataset.ground_truth(0)
    # x2 = x + w - 1; clipped to 0 .. size - 1; the crowd box and the box outside are gone.
    torch.testing.assert_close(target.bbox, torch.tensor([[1.0, 2, 10, 13], [0, 20, 39, 29]]))
    assert target.get_field("labels").tolist() == [2, 1]
    assert target.get_field("labels").dtype == torch.int64
    assert target.mode == "xyxy" and target.size == (40, 30)
    assert dataset.category_names == ("a", "b")
    assert dataset.contiguous_to_category_id == {1: 2, 2: 8}


def test_ground_truth_of_a_continuous_detector(make_files):
    tree = tree_of([(40, 30)])
    tree["annotations"] = [annotation(1, 1, [1, 2, 10, 12]), annotation(2, 1, [-5, 20, 100, 100])]
    target = COCODataset(*make_files(tree), is_train=True, continuous=True).ground_truth(0)
    # x2 = x + w; clipped to 0 .. size.
    assert target.continuous and target.bbox.tolist() == [[1, 2, 11, 14], [0, 20, 40, 30]]


def test_names_of_published_scripts(make_files):
    tree = tree_of([(40, 30), (50, 60), (70, 80)])
    tree["categories"] = [{"id": 8, "name": "b"}, {"id": 2, "name": "a"}]
    tree["annotations"] = [annotation(1, 3, [1, 2, 10, 12], 8)]
    dataset = COCODataset(*make_files(tree), is_train=True)
    assert dataset.ids == [3] and dataset.id_to_img_map == {0: 3}
    assert dataset.contiguous_category_id_to_json_id == {1: 2, 2: 8}
    assert dataset.json_category_id_to_contiguous_id == {2: 1, 8: 2}
    assert dataset.categories == {2: "a", 8: "b"}
    info = {"id": 3, "file_name": "3.png", "width": 70, "height": 80}
    assert dataset.get_img_info(0) == ConcatCOCODataset([dataset, dataset]).get_img_info(1) == info


def test_reading_ground_truth_does_not_change_it(files):
    dataset = COCODataset(*files)
    first = dataset.ground_truth(0).bbox.clone()
    dataset.ground_truth(0).bbox.zero_()
    torch.testing.assert_close(dataset.ground_truth(0).bbox, first)


def test_item_is_image_and_ground_truth(files):
    dataset = COCODataset(*files)
    image, target = dataset[0]
    assert image.mode == "RGB" and image.size == (40, 30)
    torch.testing.assert_close(target.bbox, torch.tensor([[1.0, 2, 10, 13]]))
    assert dataset.image_sizes[0].tolist() == [40, 30] and dataset.image_path(0) == os.path.join(files[0], "1.png")


def test_coco_is_the_whole_file_and_prints_nothing(files, capsys):
    dataset = COCODataset(*files, is_train=True)
    coco = dataset.coco
    assert capsys.readouterr().out == ""
    expected = COCO(files[1])
    assert sorted(coco.imgs) == sorted(expected.imgs)
    assert {i: a["bbox"] for i, a in coco.anns.items()} == {i: a["bbox"] for i, a in expected.anns.items()}
    assert coco.getAnnIds(iscrowd=True) == [2]
    assert dataset.coco is coco


def test_missing_image_folder(make_files, tmp_path):
    _, ann_file = make_files(tree_of(SIZES))
    with pytest.raises(InputError, match=rf"image folder .* \(looked at {tmp_path / 'nowhere'}\)"):
        COCODataset(str(tmp_path / "nowhere"), ann_file)


def test_missing_image_files_are_counted_and_the_first_is_named(files):
    for number in (3, 5):
        os.remove(os.path.join(files[0], f"{number}.png"))
    with pytest.raises(InputError, match=r"2 of 6 images .* the first is image 3, .*3\.png"):
        COCODataset(*files)
    # Training keeps images 1, 2 and 5.
    with pytest.raises(InputError, match=r"1 of 3 images .* the first is image 5, .*5\.png"):
        COCODataset(*files, is_train=True)
    assert len(COCODataset(*files, check_files=False)) == 6


@pytest.mark.parametrize(
    ("encoding", "advice"),
    [("utf-8", "encoding utf-8: rename it"), ("ascii", "encoding ascii: set .*PYTHONUTF8=1, or")],
)
def test_a_name_that_no_file_of_this_machine_can_have(files, monkeypatch, encoding, advice):
    # A lone surrogate has no bytes in UTF-8, as "é" has none in ASCII.
    text = Path(files[1]).read_text().replace("4.png", "\\ud83d.png")
    Path(files[1]).write_text(text)
    monkeypatch.setattr("os.fsencode", lambda path: path.encode(encoding))
    with pytest.raises(InputError, match=rf"path of image 4, '.*\\ud83d\.png', .*{advice}"):
        COCODataset(*files)


def test_file_names_may_have_folders(make_files, tmp_path):
    tree = tree_of([(40, 30), (40, 30)])
    (tmp_path / "a" / "deep").mkdir(parents=True)
    tree["images"][1]["file_name"] = "deep/2.png"
    files = make_files(tree)
    assert COCODataset(*files)[1][0].size == (40, 30)
    os.remove(os.path.join(files[0], "deep", "2.png"))
    with pytest.raises(InputError, match=r"1 of 2 images .* image 2, .*deep/2\.png"):
        COCODataset(*files)


def test_a_dataset_without_annotations_is_for_testing_only(make_files):
    tree = tree_of(SIZES)
    del tree["annotations"]
    files = make_files(tree)
    dataset = COCODataset(*files)
    assert not dataset.has_annotations and len(dataset) == 6
    assert len(dataset[0][1]) == 0 and dataset.coco.getAnnIds() == []
    with pytest.raises(InputError, match="tested on but not trained on"):
        COCODataset(*files, is_train=True)


def test_nothing_to_train_on(make_files):
    tree = tree_of(SIZES)
    tree["annotations"] = []
    files = make_files(tree)
    with pytest.raises(InputError, match=r"no image with a box .*KEEP_EMPTY_IMAGES"):
        COCODataset(*files, is_train=True)
    assert len(COCODataset(*files, is_train=True, keep_empty=True)) == 6


def test_concatenation_goes_through_its_datasets(make_files):
    first = COCODataset(*make_files(tree_of([(40, 30), (40, 31)]), "a"), is_train=True)
    second = COCODataset(*make_files(tree_of([(40, 32)]), "b"), is_train=True)
    both = ConcatCOCODataset([first, second])
    assert len(both) == 3
    assert both.image_sizes.tolist() == [[40, 30], [40, 31], [40, 32]]
    assert [both.image_id(i) for i in range(3)] == [1, 2, 1]
    assert [both[i][0].size[1] for i in range(3)] == [30, 31, 32]
    assert both[2][1].size == (40, 32)
    assert both.image_path(2) == second.image_path(0)
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            both.image_id(outside)


def with_categories(pairs):
    """Return a tree of one image with a box of each category; `pairs` are (id, name) in the order of the file."""
    tree = tree_of([(90, 30)])
    tree["categories"] = [{"id": i, "name": name} for i, name in pairs]
    # The box's width tells the name's length, so that a test sees which class a box has, whatever its id.
    tree["annotations"] = [annotation(k, 1, [1, 2, 5 + len(name), 12], i) for k, (i, name) in enumerate(pairs, 1)]
    return tree


def labels_by_width(dataset):
    target = dataset.ground_truth(0)
    widths = (target.bbox[:, 2] - target.bbox[:, 0] + 1).int().tolist()
    return dict(zip([width - 5 for width in widths], target.get_field("labels").tolist(), strict=True))


TRAINED = ("a", "bb", "ccc")
ROTATED = [(2, "a"), (3, "bb"), (1, "ccc")]


@pytest.mark.parametrize("pairs", [ROTATED, [(30, "ccc"), (10, "bb"), (20, "a")], list(enumerate(TRAINED, 1))])
def test_categories_are_numbered_by_name_whatever_their_ids_and_order(make_files, pairs):
    dataset = COCODataset(*make_files(with_categories(pairs)))
    dataset.use_labels(TRAINED)
    assert labels_by_width(dataset) == {1: 1, 2: 2, 3: 3} and dataset.category_names == TRAINED
    ids = {name: i for i, name in pairs}
    assert dataset.contiguous_to_category_id == {label: ids[name] for label, name in enumerate(TRAINED, 1)}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a", "bb"], r"lacks 'ccc'\. .*FEWER_CATEGORIES"),
        (["a", "bb", "ccc", "dddd"], "lists 'dddd' in addition"),
        (["a", "bb", "x"], "lists 'x' in addition and lacks 'ccc'"),
        (["a", "bb", "CCC "], r"'CCC ' and 'ccc' differ in case, spaces, hyphens or the encoding of accents alone"),
        (["a", "bb", "\uff43cc"], "and 'ccc' differ in case, spaces, hyphens or the encoding of accents alone"),
    ],
)
def test_other_categories_are_named_in_both_directions(make_files, names, sentence):
    dataset = COCODataset(*make_files(with_categories(list(enumerate(names, 1)))))
    with pytest.raises(InputError, match=sentence) as caught:
        dataset.use_labels(TRAINED)
    assert "write" not in str(caught.value)
    first = COCODataset(*make_files(with_categories(list(enumerate(TRAINED, 1))), "b"))
    with pytest.raises(InputError, match=sentence):
        ConcatCOCODataset([first, dataset])


def test_datasets_are_trained_on_together_by_name(make_files):
    first = COCODataset(*make_files(with_categories(list(enumerate(TRAINED, 1))), "a"))
    second = COCODataset(*make_files(with_categories(ROTATED), "b"))
    both = ConcatCOCODataset([first, second])
    assert both.category_names == TRAINED and labels_by_width(second) == {1: 1, 2: 2, 3: 3}
    both.use_labels(("ccc", "bb", "a"))
    assert labels_by_width(first) == labels_by_width(second) == {3: 1, 2: 2, 1: 3}


def test_a_dataset_may_lack_classes_where_the_config_says_so(make_files):
    first, second = (
        COCODataset(*make_files(with_categories(pairs), name), fewer_categories=True)
        for pairs, name in (([(5, "bb"), (9, "a")], "a"), ([(1, "a"), (2, "ccc")], "b"))
    )
    both = ConcatCOCODataset([first, second])
    assert both.category_names == ("bb", "a", "ccc")
    assert labels_by_width(second) == {1: 2, 3: 3} and second.contiguous_to_category_id == {2: 1, 3: 2}
    check_num_classes(both, 81, "both")
    with pytest.raises(InputError, match="has 3 categories: write 4"):
        check_num_classes(both, 3, "both")
    with pytest.raises(InputError, match="lists 'ccc' in addition"):
        second.use_labels(("a", "bb"))


def test_two_categories_of_one_name_stay_two(make_files):
    pairs = [(4, "dot"), (2, "a"), (7, "dot")]
    dataset = COCODataset(*make_files(with_categories(pairs)))
    assert dataset.category_names == ("a", "dot (id 4)", "dot (id 7)")
    assert dataset.contiguous_to_category_id == {1: 2, 2: 4, 3: 7}
    # Nobody can tell which of two equal names is which under other ids.
    other = COCODataset(*make_files(with_categories([(1, "dot"), (2, "a"), (3, "dot")]), "b"))
    with pytest.raises(
        InputError, match=r"lists 'dot \(id 1\)', 'dot \(id 3\)' in addition .*\(id 7\)' \(several .* by"
    ):
        other.use_labels(dataset.category_names)


def test_labels_may_follow_the_order_of_the_file(make_files):
    files = make_files(with_categories(ROTATED))
    by_id, by_file = COCODataset(*files), COCODataset(*files, label_order="file")
    assert by_id.category_names == ("ccc", "a", "bb") and by_file.category_names == TRAINED
    assert labels_by_width(by_file) == {1: 1, 2: 2, 3: 3}
    assert "LABEL_ORDER 'file'" in by_id.order_note and by_file.order_note == ""
    assert COCODataset(*make_files(with_categories(list(enumerate(TRAINED, 1))), "b")).order_note == ""


def test_the_number_of_classes_to_write_is_given(make_files):
    tree = tree_of([(40, 30)])
    tree["categories"] = [{"id": i, "name": str(i)} for i in (1, 2, 3)]
    dataset = COCODataset(*make_files(tree))
    check_num_classes(dataset, 4, "cells")
    with pytest.raises(InputError) as caught:
        check_num_classes(dataset, 81, "cells")
    assert str(caught.value) == (
        "MODEL.FCOS.NUM_CLASSES is 81 but dataset cells has 3 categories: write 4 (background counts)."
    )


def test_the_number_of_classes_is_not_asked_of_a_bare_test_set(make_files):
    tree = tree_of([(40, 30)])
    del tree["annotations"], tree["categories"]
    dataset = COCODataset(*make_files(tree))
    check_num_classes(dataset, 81, "test")
    assert dataset.category_names == ()


def test_real_dataset_agrees_with_pycocotools(shared):
    ann_file = shared / "bccd" / "annotations" / "instances_train.json"
    dataset = COCODataset(str(shared / "bccd" / "images"), str(ann_file), is_train=True)
    coco = COCO(str(ann_file))
    usable = {a["image_id"] for a in coco.anns.values() if min(a["bbox"][2:]) > 1}
    assert [dataset.image_id(i) for i in range(len(dataset))] == sorted(usable)
    for index in range(0, len(dataset), 10):
        anns = coco.imgToAnns[dataset.image_id(index)]
        boxes = np.array([a["bbox"] for a in anns], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2] - 1
        width, height = dataset.ground_truth(index).size
        boxes = boxes.clip(0, [width - 1, height - 1, width - 1, height - 1])
        keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        np.testing.assert_allclose(dataset.ground_truth(index).bbox.numpy(), boxes[keep])
        labels = [a["category_id"] for a, kept in zip(anns, keep, strict=True) if kept]
        # BCCD's category ids are 1, 2, 3, so labels are the ids.
        assert dataset.ground_truth(index).get_field("labels").tolist() == labels
