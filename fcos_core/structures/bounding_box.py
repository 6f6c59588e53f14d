"""Boxes of one image, with fields such as labels and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLIP_LEFT_RIGHT = 0
FLIP_TOP_BOTTOM = 1


class BoxList:
    """N boxes on an image of a given size.

    Pixels are inclusive: a box covers x1 to x2, so its width is x2 - x1 + 1.

    Args:
        bbox: (N, 4), a tensor (its floating dtype is kept) or anything `torch.as_tensor` takes (float32).
        image_size: (width, height) in pixels.
        mode: "xyxy" for (x1, y1, x2, y2) or "xywh" for (x1, y1, width, height).

    Raises:
        ValueError: the shape or the mode is another.
    """

    def __init__(self, bbox: Tensor | Sequence, image_size: tuple[int, int], mode: str = "xyxy") -> None:
        if not isinstance(bbox, Tensor):
            bbox = torch.as_tensor(bbox, dtype=torch.float32)
            bbox = bbox.reshape(0, 4) if bbox.numel() == 0 else bbox
        if not bbox.is_floating_point():
            bbox = bbox.to(torch.float32)
        if bbox.ndim != 2 or bbox.shape[1] != 4:
            raise ValueError(f"Boxes must have shape (N, 4), not {tuple(bbox.shape)}")
        if mode not in ("xyxy", "xywh"):
            raise ValueError(f"mode must be 'xyxy' or 'xywh', not {mode!r}")
        self.bbox = bbox
        self.size = tuple(image_size)
        self.mode = mode
        self.extra_fields: dict[str, Any] = {}

    def add_field(self, field: str, field_data: Any) -> None:
        """Attach `field_data`, by convention one entry a box."""
        self.extra_fields[field] = field_data

    def get_field(self, field: str) -> Any:
        return self.extra_fields[field]

    def has_field(self, field: str) -> bool:
        return field in self.extra_fields

    def fields(self) -> list[str]:
        return list(self.extra_fields)

    def convert(self, mode: str) -> BoxList:
        """The same boxes as "xyxy" or "xywh"; fields are shared."""
        if mode == self.mode:
            return self
        first, second = self.bbox.split(2, dim=1)
        if mode == "xywh":
            box = torch.cat([first, second - first + 1], dim=1)
        else:
            box = torch.cat([first, first + (second - 1).clamp(min=0)], dim=1)
        return self._like(box, mode=mode)

    def resize(self, size: tuple[int, int]) -> BoxList:
        """Boxes on the image scaled to `size` (width, height): every coordinate times its axis' ratio."""
        ratios = [new / old for new, old in zip(size, self.size, strict=True)]
        return self._like(self.bbox * self.bbox.new_tensor(ratios * 2), size=tuple(size))

    def transpose(self, method: int) -> BoxList:
        """Flip about the vertical (0, FLIP_LEFT_RIGHT) or the horizontal axis (1, FLIP_TOP_BOTTOM)."""
        if method not in (FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM):
            raise ValueError("method must be FLIP_LEFT_RIGHT (0) or FLIP_TOP_BOTTOM (1)")
        x1, y1, x2, y2 = self.convert("xyxy").bbox.unbind(1)
        width, height = self.size
        if method == FLIP_LEFT_RIGHT:
            x1, x2 = width - x2 - 1, width - x1 - 1
        else:
            y1, y2 = height - y2 - 1, height - y1 - 1
        return self._like(torch.stack([x1, y1, x2, y2], dim=1), mode="xyxy").convert(self.mode)

    def clip_to_image(self, remove_empty: bool = True) -> BoxList:
        """Clip, in place, to 0 .. size - 1; with `remove_empty`, return only boxes of positive extent."""
        boxes = self.convert("xyxy")
        width, height = self.size
        boxes.bbox[:, 0::2].clamp_(min=0, max=width - 1)
        boxes.bbox[:, 1::2].clamp_(min=0, max=height - 1)
        self.bbox = boxes.convert(self.mode).bbox
        if not remove_empty:
            return self
        x1, y1, x2, y2 = boxes.bbox.unbind(1)
        return self[(x2 > x1) & (y2 > y1)]

    def area(self) -> Tensor:
        """(N,) areas in pixels, inclusive: (x2 - x1 + 1) * (y2 - y1 + 1)."""
        width, height = self.convert("xywh").bbox[:, 2:].unbind(1)
        return width * height

    def to(self, *args: Any, **kwargs: Any) -> BoxList:
        """Boxes and tensor fields moved as by `Tensor.to`; integer fields keep their dtype."""
        moved = BoxList(self.bbox.to(*args, **kwargs), self.size, self.mode)
        non_blocking = kwargs.get("non_blocking", False)
        for name, value in self.extra_fields.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                value = value.to(*args, **kwargs)
            elif isinstance(value, Tensor):
                value = value.to(moved.bbox.device, non_blocking=non_blocking)
            moved.add_field(name, value)
        return moved

    def pin_memory(self) -> BoxList:
        """Boxes and tensor fields in page-locked memory."""
        pinned = BoxList(self.bbox.pin_memory(), self.size, self.mode)
        for name, value in self.extra_fields.items():
            pinned.add_field(name, value.pin_memory() if isinstance(value, Tensor) else value)
        return pinned

    def copy_with_fields(self, fields: str | Sequence[str]) -> BoxList:
        """The same boxes with `fields`, one name or several, alone."""
        copy = BoxList(self.bbox, self.size, self.mode)
        for name in [fields] if isinstance(fields, str) else fields:
            copy.add_field(name, self.get_field(name))
        return copy

    def __getitem__(self, item: Any) -> BoxList:
        chosen = BoxList(self.bbox[item], self.size, self.mode)
        for name, value in self.extra_fields.items():
            chosen.add_field(name, value[item])
        return chosen

    def __len__(self) -> int:
        return self.bbox.shape[0]

    def __repr__(self) -> str:
        width, height = self.size
        return f"BoxList(num_boxes={len(self)}, image_width={width}, image_height={height}, mode={self.mode})"

    def _like(self, bbox: Tensor, mode: str | None = None, size: tuple[int, int] | None = None) -> BoxList:
        new = BoxList(bbox, size or self.size, mode or self.mode)
        new.extra_fields = dict(self.extra_fields)
        return new
