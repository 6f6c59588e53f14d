"""Show pictures in a window."""

import os
import subprocess
import sys

import cv2
import numpy as np
from matplotlib import get_data_path
from PIL import Image

from fcos_core.errors import InputError

_TITLE = "Detections (q quits)"
_QUIT = (ord("q"), ord("Q"), 27)  # 27 is Esc
# Pixels of the longer side of a window when it opens.
_SIDE = 1200
# A window is opened in a process of its own first: without a display, Qt does not raise an error but ends the process.
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"


class Window:
    """A window that shows one picture after another; raise InputError if there can be none."""

    def __init__(self) -> None:
        # OpenCV's Qt brings no fonts, and says so for every window.
        os.environ.setdefault("QT_QPA_FONTDIR", os.path.join(get_data_path(), "fonts", "ttf"))
        self._is_open = False
        probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=False)
        if probe.returncode:
            raise InputError(
                "--show cannot open a window: there is no display (DISPLAY is not set or wrong), or OpenCV is the "
                "package opencv-python-headless. Leave out --show and open the pictures in the folder of --output."
            )

    def show(self, picture: Image.Image, wait: bool) -> bool:
        """Show an RGB picture; return False if the user has pressed q or Esc or has closed the window.

        Args:
            picture: any size; the window can be resized.
            wait: for a key.
        """
        if not self._is_open:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            scale = min(1.0, _SIDE / max(picture.size))
            cv2.resizeWindow(_TITLE, *(max(round(side * scale), 1) for side in picture.size))
            self._is_open = True
        cv2.imshow(_TITLE, cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
        while True:
            key = cv2.waitKey(50 if wait else 1)
            if key & 0xFF in _QUIT if key >= 0 else cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
                return False
            if key >= 0 or not wait:
                return True
