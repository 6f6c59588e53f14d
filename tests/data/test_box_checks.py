"""Test what is said of boxes that cannot be learned or that may have another form than COCO's."""

import json
import re

import pytest
from coco_trees import annotation, tree_of

from fcos_core.data.box_checks import check_boxes
from fcos_core.data.coco import COCODataset
from fcos_core.data.coco_json import COCOTable, read_coco_json
from fcos_core.errors import InputError

GOOD = [5, 5, 20, 10]  # inside an image of 40 x 30


@pytest.fixture
def table_of(tmp_path):
    """Return a function from boxes, one on each image of 40 x 30, with iscrowd of all, to the table."""

    def make(boxes: list, iscrowd: int = 0) -> COCOTable:
        tree = tree_of([(40, 30)] * max(len(boxes), 1))
        tree["annotations"] = [annotation(i + 10, i, box, iscrowd=iscrowd) for i, box in enumerate(boxes, start=1)]
        (tmp_path / "a.json").write_text(json.dumps(tree))
        return read_coco_json(str(tmp_path / "a.json"))

    return make


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ([3, 2, 0, 12], "no width or no height"),
        ([3, 2, 0.5, 12], "at most 1 pixel wide or high"),
        ([3, 2, 12, 1], "at most 1 pixel wide or high"),
        ([50, 2, 10, 10], "lie outside their image"),
        ([3, -20, 10, 10], "lie outside their image"),
        ([30, 2, 15, 10], "pass the edge of their image"),
        ([-5, 2, 15, 10], "pass the edge of their image"),
        ([3, 2, 10, 30], "pass the edge of their image"),
    ],
)
def test_a_doubtful_box_is_counted_and_shown(table_of, caplog, box, fault, is_train):
    check_boxes(table_of([GOOD, box, GOOD, box]), is_train)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("2 boxes of '") and "a.json'" in warning and fault in warning
    numbers = ", ".join(map(str, box))
    assert f"such as annotation 12 of image 2 (40 x 30), bbox [{numbers}]" in warning


def test_boxes_in_their_images_and_crowds_are_not_spoken_of(table_of, caplog):
    # A tool that rounds may pass the edge by a pixel.
    check_boxes(table_of([GOOD, [0, 0, 40, 30], [-0.6, 0, 41.5, 31], [38, 28, 2, 2]]), is_train=True)
    check_boxes(table_of([], 0), is_train=True)
    check_boxes(table_of([[100, 100, 5, 5]], iscrowd=1), is_train=False)
    assert not caplog.records


# The same boxes in other forms, on images of 40 x 30.
CORNERS = [[20, 3, 39, 12], [2, 15, 12, 28], [25, 18, 38, 29]]
CENTERS = [[30, 8, 18, 9], [7, 21, 10, 13], [34, 23, 10, 13]]
SHARES = [[0.5, 0.1, 0.4, 0.3], [0.05, 0.5, 0.25, 0.4]]


@pytest.mark.parametrize(
    ("boxes", "form"),
    [(CORNERS, "3 of 3 boxes would fit .* as x1, y1, x2, y2"), (CENTERS, "3 of 3 .* as center x, cen")],
)
def test_another_form_is_suggested(table_of, caplog, boxes, form):
    check_boxes(table_of(boxes), is_train=True)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "pass the edge" in warning and re.search(form, warning)


def test_a_few_boxes_beyond_the_edge_suggest_no_other_form(table_of, caplog):
    check_boxes(table_of([GOOD, [20, 4, 10, 8], [0, 20, 15, 9], [30, 2, 15, 10]]), is_train=True)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "pass the edge" in warning and "would fit" not in warning


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        ([[50, 50, 5, 5], [-9, 0, 4, 4]], "2 lie outside their image. Give x, y, width and height in pixels"),
        ([[5, 5, 0.4, 5], [5, 5, 0, 4]], "1 have no width or no height, 1 are at most 1 pixel wide or high"),
        (SHARES, "No number is above 1, as if they were shares of the image's width and height"),
    ],
    ids=["outside", "thin", "shares"],
)
def test_boxes_of_which_none_survives_are_an_error(table_of, boxes, sentence, is_train):
    with pytest.raises(InputError, match=r"None of the 2 boxes of '.*a\.json'.* annotation 11 of image 1 ") as caught:
        check_boxes(table_of(boxes), is_train)
    assert sentence in str(caught.value)


def test_nothing_is_learned_from_crowds_alone(table_of):
    table = table_of([GOOD, GOOD], iscrowd=1)
    check_boxes(table, is_train=False)
    with pytest.raises(InputError, match=r"All 2 annotations of '.*a\.json' have iscrowd 1"):
        check_boxes(table, is_train=True)


@pytest.mark.parametrize("keep_empty", [True, False])
def test_a_dataset_whose_boxes_are_all_outside_is_refused(make_files, keep_empty):
    tree = tree_of([(40, 30)])
    tree["annotations"] = [annotation(1, 1, [60, 5, 10, 10])]
    with pytest.raises(InputError, match="None of the 1 boxes"):
        COCODataset(*make_files(tree), is_train=True, keep_empty=keep_empty)
