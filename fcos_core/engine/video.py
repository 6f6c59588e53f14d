"""Read and write videos with OpenCV."""

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fcos_core.errors import InputError
from fcos_core.utils.text import without_secrets

# Frames per second of a video whose source does not tell them; no camera has more than MOST_FPS.
FPS, MOST_FPS = 25.0, 1000.0
# Share of the frames that a video promises, below which it counts as damaged; some containers only estimate them.
_WHOLE = 0.95

# FFmpeg's own lines on stderr repeat our messages, less clearly; OpenCV reads this when it first needs FFmpeg.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class VideoReader:
    """A video file, a camera or a stream.

    Args:
        location: path, URL or number of a camera.
        newest: frames that come while the caller is busy are left out, so that a live picture does not fall behind.

    Attributes:
        fps: frames per second, FPS if unknown.
        total: number of frames that the file promises; 0 if unknown.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, location: str | int, newest: bool = False) -> None:
        self._capture = _open(location)
        self._name = f"camera {location}" if isinstance(location, int) else f"'{without_secrets(location)}'"
        if not self._capture.isOpened():
            reason = "it is damaged, incomplete or of a kind that it does not know"
            if isinstance(location, int):
                reason = "there is none, or another program uses it"
            elif "://" in location:
                reason = "check the address, the login and the network"
            raise InputError(f"OpenCV cannot open {self._name}: {reason}.")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= MOST_FPS else FPS
        self.total = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self._newest = newest and not self.total

    def frames(self) -> Iterator[tuple[int, Image.Image]]:
        """Yield number, from 0 on, and RGB picture of each frame, and close the video.

        Raise InputError at the end if a file has no frame, or fewer than it promises.
        """
        number = -1
        try:
            with contextlib.closing(self._newest_frames() if self._newest else self._all_frames()) as frames:
                for number, frame in frames:
                    yield number, Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        finally:
            self.close()
        count = number + 1
        if count < self.total * _WHOLE or count == 0:
            promised = f" of {self.total}" if self.total else ""
            raise InputError(f"{self._name} ended after {count}{promised} frames: it is damaged or incomplete.")

    def close(self) -> None:
        self._capture.release()

    def _all_frames(self) -> Iterator[tuple[int, np.ndarray]]:
        number, (is_there, frame) = 0, self._capture.read()
        while is_there:
            yield number, frame
            number, (is_there, frame) = number + 1, self._capture.read()

    def _newest_frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """Read in a thread, and yield the frame that came last."""
        news, latest, stop = threading.Condition(), [], threading.Event()

        def read() -> None:
            for item in self._all_frames():
                with news:
                    latest[:] = [item]
                    news.notify()
                if stop.is_set():
                    return
            with news:
                stop.set()
                news.notify()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            while True:
                with news:
                    news.wait_for(lambda: latest or stop.is_set())
                    if not latest:
                        return
                    item = latest.pop()
                yield item
        finally:
            stop.set()
            thread.join()


class VideoWriter:
    """An .mp4 file; it appears under its name when it is closed.

    Args:
        path: of the file.
        fps: frames per second.
        size: (width, height) in pixels of the frames; one of another size is scaled.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self.size, self.count = path, size, 0
        self._temporary = path.with_name(f"{path.stem}.part{path.suffix}")
        with _quiet_opencv():
            self._writer = cv2.VideoWriter(_in_utf8(str(self._temporary)), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not self._writer.isOpened():
            raise InputError(
                f"OpenCV cannot write the video '{path}' ({size[0]}x{size[1]}, {fps:g} frames per second): make the "
                "folder writable, or leave the video out with --no-pictures."
            )

    def write(self, picture: Image.Image, times: int = 1) -> None:
        """Append an RGB picture, `times` in a row."""
        frame = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)
        if picture.size != self.size:
            frame = cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)
        for _ in range(times):
            self._writer.write(frame)
        self.count += times

    def close(self) -> None:
        """Finish the file; raise InputError if it lacks frames, as OpenCV does not tell that a disk is full."""
        self._writer.release()
        os.replace(self._temporary, self.path)
        written = VideoReader(str(self.path))
        written.close()
        if written.total < self.count:
            raise InputError(f"'{self.path}' has {written.total} of {self.count} frames: free disk space.")


def can_be_opened(path: str) -> bool:
    """Tell if `path` is a video that OpenCV can open."""
    capture = _open(path)
    try:
        return capture.isOpened()
    finally:
        capture.release()


def _open(location: str | int) -> cv2.VideoCapture:
    with _quiet_opencv():
        if isinstance(location, int):
            return cv2.VideoCapture(location)
        # A name with a colon or a percent sign would be a protocol or a pattern of images for some of OpenCV's readers.
        path = location if "://" in location else os.path.abspath(location)
        return cv2.VideoCapture(_in_utf8(path), cv2.CAP_FFMPEG)


def _in_utf8(path: str) -> str:
    """Return `path`; raise InputError if it is not UTF-8, because OpenCV would crash."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"OpenCV cannot open '{path}': its name is not UTF-8; rename it.") from error
    return path


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
