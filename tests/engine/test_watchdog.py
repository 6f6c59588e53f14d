"""The watchdog of a training loop that hangs or gets a signal."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from fcos_core.engine.watchdog import Watchdog
from fcos_core.utils import comm
from fcos_core.utils.launcher import leave_with_launcher

LONG = 60


def loop(folder, timeout, seconds):
    """Stay in the third iteration of a loop for `seconds`, in a process of its own."""
    logging.basicConfig(filename=folder / "log.txt", format="%(message)s")

    def save():
        (folder / "saved").touch()
        return "iteration 2 is saved"

    with Watchdog(save, timeout) as watchdog:
        watchdog.at(3, "backward")
        (folder / "entered").touch()
        time.sleep(seconds)
    comm.exit_now(7)


@pytest.fixture
def start(tmp_path):
    """Start the loop and return its process once the loop is inside the step."""
    started = []

    def begin(timeout, seconds):
        process = multiprocessing.get_context("forkserver").Process(target=loop, args=(tmp_path, timeout, seconds))
        process.start()
        started.append(process)
        end = time.monotonic() + LONG
        while not (tmp_path / "entered").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        return process

    yield begin
    for process in started:
        process.kill()


def test_a_step_that_takes_too_long(start, tmp_path):
    process = start(timeout=0.3, seconds=LONG)
    process.join(LONG / 2)
    assert process.exitcode == 1
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "log.txt").read_text() == (
        "No progress for 0.3 s (DISTRIBUTED.TIMEOUT): process 0 in iteration 3, backward; "
        "iteration 2 is saved. Exiting.\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_loop_waits(start, tmp_path, number):
    process = start(timeout=2 * LONG, seconds=LONG)
    os.kill(process.pid, number)
    process.join(LONG / 2)
    assert process.exitcode == 128 + number
    assert (tmp_path / "log.txt").read_text() == (
        f"Received {number.name}: process 0 in iteration 3, backward; iteration 2 is saved. Exiting.\n"
    )


def test_a_hangup_that_nohup_ignores_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Watchdog(lambda: "saved", LONG):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("launched", [True, False])
def test_a_process_of_torchrun_leaves_when_torchrun_is_killed(monkeypatch, launched):
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    else:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    reader, writer = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        trainer = os.fork()
        if trainer == 0:
            signal.signal(signal.SIGTERM, lambda *_: (os.write(writer, b" saved"), os._exit(0)))
            leave_with_launcher()
            os.write(writer, b"began")
            time.sleep(0.5)
            os.write(writer, b" went on")
            os._exit(0)
        signal.pause()
    os.close(writer)
    assert os.read(reader, 5) == b"began"
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == (" saved" if launched else " went on")


def test_a_process_of_torchrun_leaves_also_while_it_still_imports_pytorch():
    # PyTorch cannot be imported here, which ends the import of the package at that place. 2 is PR_GET_PDEATHSIG.
    code = """if True:
        import contextlib, ctypes, sys
        sys.modules["torch"] = None
        with contextlib.suppress(ImportError):
            import fcos_core
        number = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(number))
        print(number.value)"""
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(result.stdout) == signal.SIGTERM


def test_a_loop_in_time_is_left_alone(start, tmp_path):
    process = start(timeout=LONG, seconds=0.7)
    process.join(LONG / 2)
    assert process.exitcode == 7
    assert not (tmp_path / "saved").exists()
