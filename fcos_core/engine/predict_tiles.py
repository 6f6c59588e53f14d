"""Detect on overlapping tiles of large images, and follow objects through a video."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.optional import import_optional

Detect = Callable[[Sequence[Image.Image]], list[BoxList]]

# Tiles that are cut out at once; the detector divides them into batches of its own.
_TILES = 16
# Share of the smaller box that lies in the other one, from which two boxes of a class are one object.
_SAME_OBJECT = 0.5


def on_tiles(detect: Detect, side: int, overlap: int) -> Detect:
    """Return a function that detects on tiles, so that small objects of large images are seen at their full size.

    Boxes of one class from neighbouring tiles become one by non-maximum suppression on the share of the smaller box
    that the other covers: a tile's border cuts objects, and the part is to go where the whole is known. The tiles and
    their merging are those of supervision's InferenceSlicer. Raise InputError if the package is missing.

    Args:
        detect: detects on images, such as a `Predictor`.
        side: width and height of a tile in pixels.
        overlap: pixels that neighbouring tiles share, at least the size of the largest objects.

    Returns:
        A function of RGB images, whose boxes are in continuous pixels, best first, with the fields of a `Predictor`.
    """
    supervision = import_optional("supervision", "track", "--slice")

    def on_cut_out(tiles: list[Image.Image]) -> list[Any]:
        return [boxes.to_supervision() for boxes in detect(tiles)]

    slicer = supervision.InferenceSlicer(
        on_cut_out,
        slice_wh=side,
        overlap_wh=overlap,
        overlap_filter=supervision.OverlapFilter.NON_MAX_SUPPRESSION,
        overlap_metric=supervision.OverlapMetric.IOS,
        iou_threshold=_SAME_OBJECT,
        batch_size=_TILES,
    )

    def on_image(image: Image.Image) -> BoxList:
        boxes = BoxList.from_supervision(slicer(image), image.size)
        if not len(boxes):  # supervision has no fields where there is no box
            boxes.extra_fields = {"scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64), "names": []}
        return boxes[boxes.get_field("scores").argsort(descending=True, stable=True)]

    return lambda images: [on_image(image) for image in images]


class Tracker:
    """Number the objects of a video, frame by frame, with ByteTrack (Zhang et al., 2022).

    ByteTrack takes detections with low scores, too: those continue a track of their class, but begin none. It does not
    look at classes itself, so a surer detection of another class changes the class of a track.

    Args:
        thresholds: (C,) lowest score of each label that begins a track and is shown without one.
        fps: frames per second; a track ends a second after its last detection.

    Raises:
        InputError: the package is missing.
    """

    # Share of its threshold that a score must have to continue a track.
    LOW = 0.5

    def __init__(self, thresholds: Tensor, fps: float) -> None:
        package = import_optional("trackers", "track", "--track")
        self._thresholds = thresholds.clamp(min=1e-6)
        self._labels: dict[int, int] = {}  # of the last sure detection of each track
        # It has one threshold for all classes, so it is given scores as shares of their thresholds.
        self._tracker = package.ByteTrackTracker(
            frame_rate=fps, track_activation_threshold=1.0, high_conf_det_threshold=1.0
        )

    def __call__(self, boxes: BoxList) -> BoxList:
        """Return the boxes of the next frame that are shown, with a field "track_ids" (N,) int64, -1 without a track.

        Args:
            boxes: with fields "scores" and "labels", down to LOW times the thresholds. An object has a number from its
                second detection on.
        """
        shares = boxes.get_field("scores") / self._thresholds[boxes.get_field("labels") - 1]
        detections = boxes.to_supervision()
        detections.confidence, detections.data = shares.numpy(), {"position": np.arange(len(boxes))}
        tracked = self._tracker.update(detections)
        track_ids = torch.full((len(boxes),), -1)
        if len(tracked):
            track_ids[torch.as_tensor(tracked.data["position"])] = torch.as_tensor(
                tracked.tracker_id, dtype=torch.int64
            )
        boxes.add_field("track_ids", track_ids)
        kept = shares >= 1
        pairs = list(zip(track_ids.tolist(), boxes.get_field("labels").tolist(), strict=True))
        self._labels.update(pair for pair, is_sure in zip(pairs, kept.tolist(), strict=True) if is_sure)
        kept |= torch.tensor(
            [track >= 0 and self._labels.get(track) == label for track, label in pairs], dtype=torch.bool
        )
        return boxes[kept]
