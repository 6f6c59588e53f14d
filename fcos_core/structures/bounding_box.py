"""The boxes of one image, with fields such as labels and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcos_core.utils.optional import import_optional

FLIP_LEFT_RIGHT = 0
FLIP_TOP_BOTTOM = 1


class BoxList:
    """N boxes on an image.

    Args:
        bbox: (N, 4) in pixels; a tensor keeps a floating dtype, integers and lists become float32.
        image_size: (width, height) in pixels.
        mode: "xyxy" for (x1, y1, x2, y2) or "xywh" for (x1, y1, width, height).
        continuous: a box is x2 - x1 wide, as torchvision, detectron2 and mmdet have it. False: pixels are inclusive, a
            box covers the pixels x1 to x2, so it is x2 - x1 + 1 wide.

    Raises:
        ValueError: `bbox` is not (N, 4), or `mode` is neither of the two.
    """

    continuous = False  # of lists in files of published code, which lack the attribute

    def __init__(
        self,
        bbox: Tensor | Sequence[Any],
        image_size: tuple[int, int],
        mode: str = "xyxy",
        continuous: bool = False,
    ) -> None:
        if not isinstance(bbox, Tensor):
            bbox = torch.as_tensor(bbox, dtype=torch.float32)
            bbox = bbox.reshape(0, 4) if bbox.numel() == 0 else bbox
        if not bbox.is_floating_point():
            bbox = bbox.to(torch.float32)
        if bbox.ndim != 2 or bbox.shape[1] != 4:
            raise ValueError(f"Boxes must have shape (N, 4), not {tuple(bbox.shape)}")
        if mode not in ("xyxy", "xywh"):
            raise ValueError(f"mode must be 'xyxy' or 'xywh', not {mode!r}")
        width, height = image_size
        self.bbox, self.size, self.mode, self.continuous = bbox, (width, height), mode, continuous
        self.extra_fields: dict[str, Any] = {}

    def add_field(self, field: str, field_data: Any) -> None:
        """Attach `field_data`, a tensor or list with one entry a box, under the name `field`."""
        self.extra_fields[field] = field_data

    def get_field(self, field: str) -> Any:
        return self.extra_fields[field]

    def has_field(self, field: str) -> bool:
        return field in self.extra_fields

    def fields(self) -> list[str]:
        return list(self.extra_fields)

    def convert(self, mode: str) -> BoxList:
        """Return the same boxes as "xyxy" or "xywh", with the same fields."""
        if mode == self.mode:
            return self
        first, second = self.bbox.split(2, dim=1)
        if mode == "xywh":
            box = torch.cat([first, second - first + self._last], dim=1)
        else:
            box = torch.cat([first, first + (second - self._last).clamp(min=0)], dim=1)
        return self._like(box, mode=mode)

    def with_pixels(self, continuous: bool) -> BoxList:
        """Return the same boxes, of the same widths and heights, in continuous or in inclusive pixels."""
        if continuous == self.continuous:
            return self
        box = self.bbox
        if self.mode == "xyxy":
            box = torch.cat([box[:, :2], box[:, 2:] + (1 if continuous else -1)], dim=1)
        new = self._like(box)
        new.continuous = continuous
        return new

    def resize(self, size: tuple[int, int]) -> BoxList:
        """Scale the boxes with their image to `size` (width, height): multiply coordinates by their axis' ratio."""
        ratios = [new / old for new, old in zip(size, self.size, strict=True)]
        return self._like(self.bbox * self.bbox.new_tensor(ratios * 2), size=size)

    def transpose(self, method: int) -> BoxList:
        """Mirror the boxes with their image: FLIP_LEFT_RIGHT (0) or FLIP_TOP_BOTTOM (1), otherwise raise ValueError."""
        if method not in (FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM):
            raise ValueError("method must be FLIP_LEFT_RIGHT (0) or FLIP_TOP_BOTTOM (1)")
        x1, y1, x2, y2 = self.convert("xyxy").bbox.unbind(1)
        width, height = self.size
        if method == FLIP_LEFT_RIGHT:
            x1, x2 = width - x2 - self._last, width - x1 - self._last
        else:
            y1, y2 = height - y2 - self._last, height - y1 - self._last
        return self._like(torch.stack([x1, y1, x2, y2], dim=1), mode="xyxy").convert(self.mode)

    def crop(self, box: Sequence[int]) -> BoxList:
        """Return the boxes on the region `box`, (left, top, right, bottom) in pixels, clipped to it.

        The region's size is (right - left, bottom - top). All boxes stay, also those outside, which become empty.
        """
        left, top, right, bottom = box
        width, height = right - left, bottom - top
        boxes = self.convert("xyxy").bbox
        boxes = boxes - boxes.new_tensor([left, top, left, top])
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
        return self._like(boxes, mode="xyxy", size=(width, height)).convert(self.mode)

    def clip_to_image(self, remove_empty: bool = True) -> BoxList:
        """Clip the boxes in place to 0 .. size - 1 on each axis (continuous: 0 .. size) and return this list.

        With `remove_empty` return a new list of the boxes with x2 > x1 and y2 > y1.
        """
        boxes = self.convert("xyxy")
        width, height = self.size
        boxes.bbox[:, 0::2].clamp_(min=0, max=width - self._last)
        boxes.bbox[:, 1::2].clamp_(min=0, max=height - self._last)
        self.bbox = boxes.convert(self.mode).bbox
        if not remove_empty:
            return self
        x1, y1, x2, y2 = boxes.bbox.unbind(1)
        return self[(x2 > x1) & (y2 > y1)]

    def to_torchvision(self) -> dict[str, Tensor]:
        """Return a dictionary as torchvision's detectors give it, so that its tools take these detections.

        "boxes" (N, 4) are (x1, y1, x2, y2) with x2 - x1 as the width; "labels" and "scores" are there if the list has
        them. Labels count from 1 as here, because torchvision's label 0 is the background, too.
        """
        boxes = self.with_pixels(continuous=True).convert("xyxy").bbox
        return {"boxes": boxes, **{name: self.get_field(name) for name in ("labels", "scores") if self.has_field(name)}}

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections`, whose `xyxy` has x2 - x1 as the width.

        `class_id` counts from 0, as that library does: it is the label minus 1. Fields that the list lacks are None.
        `data["class_name"]` holds the field "names", `tracker_id` the field "track_ids". Raise InputError if the
        package is missing.
        """
        supervision = import_optional("supervision", "track", "Conversion to supervision.Detections")
        values = {name: value.cpu().numpy() for name, value in self.to_torchvision().items()}
        labels = values.get("labels")
        tracks = self.get_field("track_ids").cpu().numpy() if self.has_field("track_ids") else None
        # An array of no texts would have a numeric type.
        names = np.array(self.get_field("names"), dtype=str) if self.has_field("names") else None
        return supervision.Detections(
            xyxy=values["boxes"],
            confidence=values.get("scores"),
            class_id=None if labels is None else labels - 1,
            tracker_id=tracks,
            data={} if names is None else {"class_name": names},
        )

    @classmethod
    def from_supervision(cls, detections: Any, image_size: tuple[int, int]) -> BoxList:
        """Make a list, in continuous pixels, of a `supervision.Detections` on an image of (width, height) pixels.

        The fields are those that `to_supervision` reads.
        """
        boxes = cls(torch.as_tensor(detections.xyxy, dtype=torch.float32), image_size, continuous=True)
        arrays = {"scores": detections.confidence, "labels": detections.class_id, "track_ids": detections.tracker_id}
        for name, array in arrays.items():
            if array is not None:
                tensor = torch.as_tensor(array)
                boxes.add_field(name, tensor.float() if name == "scores" else tensor.long() + (name == "labels"))
        if "class_name" in detections.data:
            boxes.add_field("names", [str(name) for name in detections.data["class_name"]])
        return boxes

    def area(self) -> Tensor:
        """Return (N,) areas in pixels: (x2 - x1 + 1) * (y2 - y1 + 1), without the ones if continuous."""
        width, height = self.convert("xywh").bbox[:, 2:].unbind(1)
        return width * height

    def to(self, *args: Any, **kwargs: Any) -> BoxList:
        """Move boxes and tensor fields as `Tensor.to` does; integer fields keep their dtype."""
        boxes = self.bbox.to(*args, **kwargs)
        non_blocking = kwargs.get("non_blocking", False)

        def move(field: Tensor) -> Tensor:
            if field.is_floating_point():
                return field.to(*args, **kwargs)
            return field.to(boxes.device, non_blocking=non_blocking)

        return self._like(boxes, fields=self._map_tensors(move))

    def pin_memory(self) -> BoxList:
        """Return the same boxes and tensor fields in page-locked memory."""
        return self._like(self.bbox.pin_memory(), fields=self._map_tensors(Tensor.pin_memory))

    def copy_with_fields(self, fields: str | Sequence[str], skip_missing: bool = False) -> BoxList:
        """Return the same boxes with only `fields`, one name or several.

        Raise KeyError for a field that the list lacks, unless `skip_missing`.
        """
        names = [fields] if isinstance(fields, str) else fields
        present = [name for name in names if not skip_missing or self.has_field(name)]
        return self._like(self.bbox, fields={name: self.get_field(name) for name in present})

    def __getitem__(self, item: int | slice | Tensor | Sequence[int]) -> BoxList:
        """Select boxes and their fields as torch indexes dimension 0; an int selects a list of one box."""
        item = [item] if isinstance(item, int) else item
        has_list = any(isinstance(value, list) for value in self.extra_fields.values())
        # Only lists need the positions on the host, which has to wait for a GPU to read them.
        positions = torch.arange(len(self), device=self.bbox.device)[item].tolist() if has_list else []
        fields = {
            name: [value[i] for i in positions] if isinstance(value, list) else value[item]
            for name, value in self.extra_fields.items()
        }
        return self._like(self.bbox[item], fields=fields)

    def __len__(self) -> int:
        return self.bbox.shape[0]

    def __repr__(self) -> str:
        width, height = self.size
        kind = ", continuous=True" if self.continuous else ""
        return f"BoxList(num_boxes={len(self)}, image_width={width}, image_height={height}, mode={self.mode}{kind})"

    def _copy_extra_fields(self, bbox: BoxList) -> None:
        """Add the fields of `bbox` to this list; only published scripts use this name."""
        self.extra_fields.update(bbox.extra_fields)

    def _split_into_xyxy(self) -> tuple[Tensor, ...]:
        """Return x1, y1, x2 and y2, each (N, 1), in any mode; only published scripts use this name."""
        return self.convert("xyxy").bbox.split(1, dim=-1)

    @property
    def _last(self) -> int:
        """Pixels that a box has beyond x2 - x1."""
        return 0 if self.continuous else 1

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Return the fields with `function` applied to those that are tensors."""
        fields = self.extra_fields.items()
        return {name: function(value) if isinstance(value, Tensor) else value for name, value in fields}

    def _like(
        self,
        bbox: Tensor,
        mode: str | None = None,
        size: tuple[int, int] | None = None,
        fields: dict[str, Any] | None = None,
    ) -> BoxList:
        """Return `bbox` with this list's mode, size and fields where no others are given, in its kind of pixels."""
        new = BoxList(bbox, size or self.size, mode or self.mode, self.continuous)
        new.extra_fields = dict(self.extra_fields) if fields is None else fields
        return new


# `torch.load` with its default weights_only=True then reads files of detections; both package names were published.
torch.serialization.add_safe_globals([BoxList, (BoxList, "maskrcnn_benchmark.structures.bounding_box.BoxList")])


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
    joined = BoxList(torch.cat([boxes.bbox for boxes in bboxes]), first.size, first.mode, first.continuous)
    for name in first.fields():
        joined.add_field(name, torch.cat([boxes.get_field(name) for boxes in bboxes]))
    return joined


def _kind(boxlist: BoxList) -> tuple[tuple[int, int], str, bool, set[str]]:
    return boxlist.size, boxlist.mode, boxlist.continuous, set(boxlist.fields())
