"""Detect objects in images, videos and live pictures, and write the detections."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from PIL import Image
from torch import Tensor

from fcos_core.engine.predict_inputs import Source
from fcos_core.engine.predict_outputs import CSV_FILE, JSON_FILE, Picture, PictureWriter, ResultFiles
from fcos_core.engine.predict_tiles import Detect, Tracker
from fcos_core.engine.predict_window import Window
from fcos_core.engine.video import VideoReader
from fcos_core.errors import InputError
from fcos_core.structures.bounding_box import BoxList
from fcos_core.utils.files import check_writable
from fcos_core.utils.progress import progress
from fcos_core.visualize.detections import annotated

logger = logging.getLogger(__name__)


@dataclass
class Summary:
    """Summary of a prediction.

    Attributes:
        images: number of images and frames.
        detections: number of detections in them.
        seconds: spent in the detector.
        failures: a sentence for each source that could not be read, or not to its end.
        written: files, those of the detections first.
        interrupted: the user pressed Ctrl-C; everything that was found until then is written.
    """

    images: int = 0
    detections: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    interrupted: bool = False


def predict(
    detect: Detect,
    sources: Sequence[Source],
    output: Path,
    category_names: Sequence[str],
    read: Callable[[str], Image.Image],
    batch: int = 1,
    tracked: Tensor | None = None,
    pictures: bool = True,
    window: Window | None = None,
) -> Summary:
    """Detect objects in `sources` and write them to detections.json, detections.csv and pictures in `output`.

    A source that cannot be read is named in the summary, and the others go on. Memory does not grow with the length of
    a video. Raise InputError if `output` cannot be written to.

    Args:
        detect: detects on RGB images, such as a `Predictor`; boxes have the fields "scores", "labels" and "names".
        sources: images and videos, see `find_sources`.
        output: folder, which is created if missing.
        category_names: name of each label, from label 1 on.
        read: reads an image file, such as `Predictor.read`.
        batch: images that are handed to `detect` at once; 1 for live pictures and with a window.
        tracked: (C,) lowest score of each label that is shown, to follow objects in videos (see `Tracker`); `detect`
            must find down to Tracker.LOW times these. None: objects are not followed.
        pictures: write the images and videos with the detections drawn on them.
        window: shows the pictures.
    """
    check_writable(str(output), "--output", JSON_FILE, CSV_FILE)
    live = window is not None or any(source.kind == "live" for source in sources)
    summary, tracking = Summary(), _Tracking(tracked)
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(ResultFiles(output))
        writer = stack.enter_context(contextlib.closing(PictureWriter(output)))
        pictures_in = stack.enter_context(contextlib.closing(_read(sources, read, summary.failures)))
        show = _Show(category_names, writer if pictures else None, window)
        try:
            for picture, found in _detected(detect, pictures_in, 1 if live else batch, summary, sources):
                boxes = tracking(picture, found)
                results.add(picture, boxes)
                summary.images, summary.detections = summary.images + 1, summary.detections + len(boxes)
                if not show(picture, boxes):
                    break
        except KeyboardInterrupt:
            summary.interrupted = True
    summary.written = [*results.paths, *writer.written]
    return summary


class _Show:
    """Draws the detections, writes the picture if there is a writer, and shows it if there is a window."""

    def __init__(self, category_names: Sequence[str], writer: PictureWriter | None, window: Window | None) -> None:
        self._names, self._writer, self._window = category_names, writer, window

    def __call__(self, picture: Picture, boxes: BoxList) -> bool:
        """Return False if the user has ended the work in the window."""
        if self._writer is None and self._window is None:
            return True
        is_image = picture.frame is None
        drawn = annotated(picture.image, boxes, self._names, keep_size=not is_image)
        if self._writer is not None:
            self._writer.write(picture, drawn)
        return self._window is None or self._window.show(drawn, wait=is_image)


class _Tracking:
    """Gives the frames of each video to a tracker of its own; leaves out low scores on images."""

    def __init__(self, thresholds: Tensor | None) -> None:
        self._thresholds, self._source = thresholds, None

    def __call__(self, picture: Picture, boxes: BoxList) -> BoxList:
        if self._thresholds is None:
            return boxes
        if picture.frame is None:
            return boxes[boxes.get_field("scores") >= self._thresholds[boxes.get_field("labels") - 1]]
        if picture.source is not self._source:
            self._source, self._tracker = picture.source, Tracker(self._thresholds, picture.fps)
        return self._tracker(boxes)


def _read(sources: Sequence[Source], read: Callable[[str], Image.Image], failures: list[str]) -> Iterator[Picture]:
    """Yield every image and frame; the error of one that cannot be read is logged and added to `failures`."""
    for source in sources:
        try:
            if source.kind == "image":
                yield Picture(source, read(source.location))
                continue
            video = VideoReader(source.location, newest=source.kind == "live")
            with contextlib.closing(video.frames()) as frames:
                for number, image in frames:
                    yield Picture(source, image, number, video.fps)
        except InputError as error:
            failures.append(str(error))
            logger.warning("%s", error)


def _detected(
    detect: Detect, pictures: Iterator[Picture], batch: int, summary: Summary, sources: Sequence[Source]
) -> Iterator[tuple[Picture, BoxList]]:
    """Yield each picture with its detections, with a progress bar."""

    def detected() -> Iterator[tuple[Picture, BoxList]]:
        for some in _batches(pictures, batch):
            start = time.perf_counter()
            found = detect([picture.image for picture in some])
            summary.seconds += time.perf_counter() - start
            yield from zip(some, found, strict=True)

    unit = "image" if all(source.kind == "image" for source in sources) else "frame"
    return progress(detected(), _total(sources), "Detecting", unit)


def _total(sources: Sequence[Source]) -> int | None:
    """Return the number of images and frames; None if it is not known, as of live pictures."""
    total = sum(source.kind == "image" for source in sources)
    for source in sources:
        if source.kind == "live":
            return None
        if source.kind == "video":
            # A video that cannot be opened is named when its turn comes.
            with contextlib.suppress(InputError), contextlib.closing(VideoReader(source.location)) as video:
                if not video.total:
                    return None
                total += video.total
    return total


def _batches(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while batch := list(islice(pictures, size)):
        yield batch
