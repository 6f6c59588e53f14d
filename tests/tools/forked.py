"""Commands in processes that begin with PyTorch imported: its import takes three seconds of each new interpreter."""

import ctypes
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver")


def run(words: list[str], environment: dict[str, str], folder: Path, host: str, outputs: tuple[str, str]) -> None:
    """Do what `python WORDS` does, in this process; files take the place of the standard output and error."""
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if host and ctypes.CDLL(None, use_errno=True).setns(os.open(f"/run/netns/{host}", os.O_RDONLY), 0):
        raise OSError(ctypes.get_errno(), "setns", host)
    # A process starts others in the way that it was started, unless told to start them as a new interpreter does.
    multiprocessing.set_start_method(None, force=True)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


class ForkedCommand:
    """A command that runs, with the part of subprocess.Popen that tests use.

    Args:
        words: the words after "python": a file or "-m" and a module, and its arguments.
        environment: the command's environment variables.
        folder: the folder in which it runs.
        host: the network namespace in which it runs; "": that of the tests.
    """

    def __init__(self, words: list[str], environment: dict[str, str], folder: Path, host: str = "") -> None:
        self.args = words
        self._files = [tempfile.NamedTemporaryFile("r", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        outputs = tuple(file.name for file in self._files)
        self._process = CONTEXT.Process(target=run, args=(words, environment, folder, host, outputs))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return all that was printed on the standard output and error."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
