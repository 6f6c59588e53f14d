"""Published `structures.boxlist_ops`: functions of BoxLists."""

from torch import Tensor

from fcos_core.layers.nms import batched_nms, nms
from fcos_core.structures.bounding_box import BoxList, boxlist_iou, cat_boxlist

__all__ = ["boxlist_iou", "boxlist_ml_nms", "boxlist_nms", "cat_boxlist", "remove_small_boxes"]


def boxlist_nms(boxlist: BoxList, nms_thresh: float, max_proposals: int = -1, score_field: str = "scores") -> BoxList:
    """Keep the boxes that `layers.nms` keeps, best first; a threshold of 0 or less keeps all as they are.

    Args:
        boxlist: boxes with the field `score_field`, in any mode.
        nms_thresh: a box goes if its IoU with a better one is above this.
        max_proposals: keep only so many; 0 or less: all.
        score_field: name of the field of scores.
    """
    if nms_thresh <= 0:
        return boxlist
    keep = nms(_inclusive(boxlist), boxlist.get_field(score_field), nms_thresh)
    return boxlist[_first(keep, max_proposals)]


def boxlist_ml_nms(
    boxlist: BoxList,
    nms_thresh: float,
    max_proposals: int = -1,
    score_field: str = "scores",
    label_field: str = "labels",
) -> BoxList:
    """As `boxlist_nms`, but only boxes of the same label suppress each other."""
    if nms_thresh <= 0:
        return boxlist
    scores, labels = boxlist.get_field(score_field), boxlist.get_field(label_field)
    keep = batched_nms(_inclusive(boxlist), scores, labels.long(), nms_thresh)
    return boxlist[_first(keep, max_proposals)]


def remove_small_boxes(boxlist: BoxList, min_size: float) -> BoxList:
    """Keep the boxes whose width and height are at least `min_size` pixels."""
    return boxlist[(boxlist.convert("xywh").bbox[:, 2:] >= min_size).all(dim=1)]


def _inclusive(boxlist: BoxList) -> Tensor:
    return boxlist.convert("xyxy").with_pixels(continuous=False).bbox


def _first(keep: Tensor, count: int) -> Tensor:
    return keep[:count] if count > 0 else keep
