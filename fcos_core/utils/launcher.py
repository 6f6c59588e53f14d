"""End with the launcher that started this process."""

import ctypes
import os
import signal
import sys

# Number of the request in Linux's prctl.h.
_PR_SET_PDEATHSIG = 1


def leave_with_launcher() -> None:
    """Have the kernel send SIGTERM to this process when the torchrun that started it ends, even by kill -9.

    Training then saves and leaves at once; without this it would go on beside a restarted job until a collective fails.
    Processes that torchrun has not started, under nohup or tmux for example, are left alone.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
