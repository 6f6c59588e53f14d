"""Published functions of BoxLists."""

import pytest
import torch

from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.boxlist_ops import (
    boxlist_iou,
    boxlist_ml_nms,
    boxlist_nms,
    cat_boxlist,
    remove_small_boxes,
)


def boxes(mode="xyxy"):
    """Make three boxes of 10 x 10 pixels; the second covers half of the first, IoU 50 / 150, the third is far away."""
    made = BoxList([[0, 0, 9, 9], [5, 0, 14, 9], [40, 40, 49, 49]], (60, 60))
    made.add_field("scores", torch.tensor([0.5, 0.9, 0.7]))
    made.add_field("labels", torch.tensor([1, 2, 1]))
    return made.convert(mode)


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_nms_keeps_the_best_in_the_mode_of_the_list(mode):
    kept = boxlist_nms(boxes(mode), 0.3)
    assert kept.get_field("scores").tolist() == pytest.approx([0.9, 0.7]) and kept.mode == mode
    assert torch.equal(kept.bbox, boxes(mode).bbox[[1, 2]])
    assert len(boxlist_nms(boxes(mode), 0.34)) == 3
    assert len(boxlist_nms(boxes(mode), 0.3, max_proposals=1)) == 1


def test_nms_within_labels():
    assert len(boxlist_ml_nms(boxes(), 0.3)) == 3
    same = boxes()
    same.add_field("labels", torch.ones(3))
    assert boxlist_ml_nms(same, 0.3).get_field("scores").tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize("function", [boxlist_nms, boxlist_ml_nms])
def test_a_threshold_of_zero_keeps_the_list_as_it_is(function):
    made = boxes()
    assert function(made, 0) is made


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_iou_counts_corner_pixels(mode):
    ious = boxlist_iou(boxes(mode), boxes())
    assert ious[0].tolist() == pytest.approx([1, 50 / 150, 0])
    with pytest.raises(RuntimeError, match="sizes"):
        boxlist_iou(boxes(), BoxList([[0, 0, 1, 1]], (5, 5)))


def test_continuous_boxes_have_no_corner_pixels():
    continuous = boxes().with_pixels(continuous=True)
    assert continuous.bbox[0].tolist() == [0, 0, 10, 10]
    assert boxlist_iou(continuous, continuous).tolist() == boxlist_iou(boxes(), boxes()).tolist()
    for threshold, kept in ((0.3, 2), (0.34, 3)):
        assert len(boxlist_nms(continuous, threshold)) == kept
    assert cat_boxlist([continuous, continuous]).continuous
    with pytest.raises(ValueError, match="pixels"):
        cat_boxlist([continuous, boxes()])


def test_small_boxes_go():
    made = BoxList([[0, 0, 3, 3], [0, 0, 3, 4], [0, 0, 4, 4]], (9, 9))
    assert remove_small_boxes(made, 5).bbox.tolist() == [[0, 0, 4, 4]]


def test_lists_of_one_image_join():
    joined = cat_boxlist([boxes(), boxes()[:1]])
    assert len(joined) == 4 and joined.get_field("labels").tolist() == [1, 2, 1, 1] and joined.size == (60, 60)
    for other in (boxes("xywh"), boxes().copy_with_fields("labels"), BoxList([[0, 0, 1, 1]], (5, 5))):
        with pytest.raises(ValueError, match="differ"):
            cat_boxlist([boxes(), other])
    with pytest.raises(ValueError, match=r"mode=xyxy\), BoxList\(.*mode=xyxy, continuous=True\)"):
        cat_boxlist([boxes(), boxes().with_pixels(continuous=True)])
