"""Test the datasets: images kept for training, their boxes, and the index for evaluation."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_trees import annotation, tree_of
from pycocotools.coco import COCO

from fcos_core.data.coco import COCODataset, ConcatCOCODataset, check_num_classes
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


def test_boxes_without_extent_are_left_out_with_one_warning(files, caplog):
    dataset = COCODataset(*files)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and warnings[0].startswith("2 boxes of")
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


def test_a_name_that_no_file_of_this_machine_can_have(files):
    # A lone surrogate has no bytes in UTF-8, as "é" has none in ASCII.
    text = Path(files[1]).read_text().replace("4.png", "\\ud83d.png")
    Path(files[1]).write_text(text)
    with pytest.raises(InputError, match=r"path of image 4, '.*\\ud83d\.png', .*set .*PYTHONUTF8=1"):
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
    tree["annotations"] = [annotation(1, 1, [1, 1, 1, 1])]
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


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(["cell", "dot"], "1 and 2 of them"), (["dot"], "number 1 is 'cell' in one and 'dot' in the other")],
)
def test_concatenation_needs_the_same_categories(make_files, names, sentence):
    tree = tree_of([(40, 30)])
    first = COCODataset(*make_files(tree, "a"))
    tree["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    second = COCODataset(*make_files(tree, "b"))
    with pytest.raises(InputError, match=sentence):
        ConcatCOCODataset([first, second])


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
