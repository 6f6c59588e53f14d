"""Published `structures.boxlist_ops`: functions of BoxLists."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fcos_core.layers.nms import batched_nms, nms
from fcos_core.published_scripts.modeling_utils import cat
from fcos_core.structures.bounding_box import BoxList


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


def boxlist_iou(boxlist1: BoxList, boxlist2: BoxList) -> Tensor:
    """Return the (N, M) IoU of each box of the first list with each of the second.

    Raise RuntimeError if the lists are of images of different sizes.
    """
    if boxlist1.size != boxlist2.size:
        raise RuntimeError(f"boxlist_iou: the images of the lists have different sizes: {boxlist1}, {boxlist2}")
    first = boxlist1.convert("xyxy").bbox[:, None]
    second = boxlist2.convert("xyxy").with_pixels(boxlist1.continuous).bbox
    last = 0 if boxlist1.continuous else 1
    corner_min = torch.maximum(first[..., :2], second[:, :2])
    corner_max = torch.minimum(first[..., 2:], second[:, 2:])
    intersection = (corner_max - corner_min + last).clamp(min=0).prod(dim=2)
    return intersection / (boxlist1.area()[:, None] + boxlist2.area() - intersection)


def cat_boxlist(bboxes: Sequence[BoxList]) -> BoxList:
    """Join lists of one image, which have the same mode and the same fields, of tensors; raise ValueError otherwise."""
    first = bboxes[0]
    for other in bboxes[1:]:
        if _kind(other) != _kind(first):
            raise ValueError(f"cat_boxlist: size, mode, pixels or fields differ: {first}, {other}")
    joined = BoxList(cat([boxes.bbox for boxes in bboxes]), first.size, first.mode, first.continuous)
    for name in first.fields():
        joined.add_field(name, cat([boxes.get_field(name) for boxes in bboxes]))
    return joined


def _inclusive(boxlist: BoxList) -> Tensor:
    return boxlist.convert("xyxy").with_pixels(continuous=False).bbox


def _kind(boxlist: BoxList) -> tuple[tuple[int, int], str, bool, set[str]]:
    return boxlist.size, boxlist.mode, boxlist.continuous, set(boxlist.fields())


def _first(keep: Tensor, count: int) -> Tensor:
    return keep[:count] if count > 0 else keep
