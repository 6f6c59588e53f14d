"""Write detections: a JSON file, a CSV file, pictures and videos."""

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fcos_core.engine.predict_inputs import Source
from fcos_core.engine.video import VideoWriter
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.files import explaining_failure, replacing

JSON_FILE, CSV_FILE = "detections.json", "detections.csv"
COLUMNS = ("file", "frame", "x1", "y1", "x2", "y2", "score", "label", "name", "track_id")


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video.

    Attributes:
        source: where it comes from.
        image: in RGB.
        frame: its number in the video, from 0 on; None for an image.
        fps: frames per second of the video; 0 for an image.
    """

    source: Source
    image: Image.Image
    frame: int | None = None
    fps: float = 0.0


class ResultFiles(contextlib.ExitStack):
    """The JSON and the CSV file, written while detections come; they appear when the block ends, however it ends.

    Args:
        folder: where both are.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.paths = (folder / JSON_FILE, folder / CSV_FILE)
        self._images = 0
        self._json, self._csv = (self.enter_context(replacing(str(path))) for path in self.paths)
        self._json.write(b"[")
        self._csv.write(_csv_lines([COLUMNS]))
        self._separator = b"\n"

    def add(self, picture: Picture, boxes: BoxList) -> None:
        """Append the detections of the next picture; the first has the image id 1."""
        self._images += 1
        rows = detection_rows(picture, boxes, self._images)
        entries = b"".join(self._separate(json.dumps(row).encode()) for row in rows)
        lines = _csv_lines([_csv_values(row) for row in rows])
        with explaining_failure(self.paths[0].parent, "--output"):
            self._json.write(entries)
            self._csv.write(lines)

    def __exit__(self, *error: Any) -> None:
        # An error in the block does not take from the user the detections before it.
        with explaining_failure(self.paths[0].parent, "--output"):
            self._json.write(b"\n]\n")
            super().__exit__(None, None, None)

    def _separate(self, entry: bytes) -> bytes:
        separator, self._separator = self._separator, b",\n"
        return separator + entry


def detection_rows(picture: Picture, boxes: BoxList, image_id: int) -> list[dict[str, Any]]:
    """Return an entry of COCO's result format for each detection, with further keys, best first.

    "bbox" is (x, y, width, height) in pixels and "category_id" the label, 1-based. "file_name" and "category_name" say
    both in words. Frames have "frame", and objects that are followed have "track_id".
    """
    labels, scores = boxes.get_field("labels").tolist(), boxes.get_field("scores").tolist()
    tracks = boxes.get_field("track_ids").tolist() if boxes.has_field("track_ids") else [-1] * len(boxes)
    file_name = picture.source.name
    place = {"image_id": image_id, "file_name": file_name}
    place |= {} if picture.frame is None else {"frame": picture.frame}
    return [
        {
            **place,
            "category_id": label,
            "category_name": name,
            "bbox": [round(value, 2) for value in box],
            "score": round(score, 5),
            **({} if track < 0 else {"track_id": track}),
        }
        for box, label, name, score, track in zip(
            boxes.convert("xywh").bbox.tolist(), labels, boxes.get_field("names"), scores, tracks, strict=True
        )
    ]


def _csv_values(row: dict[str, Any]) -> list[Any]:
    x, y, width, height = row["bbox"]
    box = (x, y, round(x + width, 2), round(y + height, 2))
    named = (row["score"], row["category_id"], row["category_name"], row.get("track_id", ""))
    return [row["file_name"], row.get("frame", ""), *box, *named]


def _csv_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    # A file name that is not UTF-8 keeps its bytes.
    return text.getvalue().encode("utf-8", "surrogateescape")


class PictureWriter:
    """Writes pictures, and the frames of each video, which come one after another, to a video of the same fps.

    Args:
        folder: where they are written, each under the name that its source has for it.

    Attributes:
        written: paths of the finished pictures and videos.
    """

    def __init__(self, folder: Path) -> None:
        self.written: list[Path] = []
        self._folder = folder
        self._source: Source | None = None
        self._video: VideoWriter | None = None

    def write(self, picture: Picture, drawn: Image.Image) -> None:
        """Write a picture or append a frame; a frame takes the place of those before it that were left out."""
        if picture.source is not self._source:
            self.close()
            self._source = picture.source
        path = self._folder / picture.source.output
        with explaining_failure(path, "--output"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if picture.frame is None:
                drawn.save(path, quality=95)
                self.written.append(path)
                return
        if self._video is None:
            self._video = VideoWriter(path, picture.fps, drawn.size)
        self._video.write(drawn, max(picture.frame + 1 - self._video.count, 1))

    def close(self) -> None:
        """Finish the video that is being written."""
        video, self._video = self._video, None
        if video is not None:
            with explaining_failure(video.path, "--output"):
                video.close()
            self.written.append(video.path)
