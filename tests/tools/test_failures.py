"""Real trainings in which a process, a worker, the disk or the memory fails: all processes end soon and name it."""

import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from processes import descendants, is_running, kill_all, wait_for, worker

# The limit for one failure to end every process.
SECONDS = 60
LONG = ("SOLVER.MAX_ITER", "100000", "SOLVER.LOG_PERIOD", "1", "SOLVER.CHECKPOINT_PERIOD", "100000", "--skip-test")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


class Training:
    """Running training command, of one or several processes."""

    def __init__(self, workspace, launcher, *words, out=None):
        self.folder = Path(out or workspace.out)
        self.process = workspace.start("train_net.py", *LONG, *words, "OUTPUT_DIR", str(self.folder), launcher=launcher)

    def wait_for_iterations(self, count):
        metrics = self.folder / "metrics.jsonl"

        def done():
            assert self.process.poll() is None, self.process.communicate()
            return metrics.exists() and metrics.read_text().count("\n") >= count

        wait_for(done)

    def ends(self):
        """Wait for the end, which must be a failure and come in time; return (stdout, stderr)."""
        output, error = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode != 0
        return output, error

    def checkpoint(self):
        return torch.load(self.folder / (self.folder / "last_checkpoint").read_text(), weights_only=True)


@pytest.fixture
def start(workspace):
    trainings = []

    def begin(launcher, *words, iterations=2, **options):
        training = Training(workspace, launcher, *words, **options)
        trainings.append(training)
        training.wait_for_iterations(iterations)
        return training

    yield begin
    for training in trainings:
        kill_all(training.process.pid)
        training.process.kill()
        training.process.communicate()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_other(start, rank):
    training = start(TWO_PROCESSES)
    os.kill(worker(training.process.pid, rank), signal.SIGKILL)
    _, error = training.ends()
    assert re.search(rf"exitcode\s*: -9.*rank\s*: {rank}|rank\s*: {rank}.*exitcode\s*: -9", error, re.DOTALL)
    if rank == 1:
        # The saving process is alive: nothing is lost.
        assert training.checkpoint()["iteration"] >= 2


def test_an_error_in_one_process_is_shown_first_and_nothing_is_lost(start, workspace):
    # Each process reads an image per iteration; one of them soon reads this image.
    training = start(TWO_PROCESSES)
    broken = workspace.folder / "images" / "3.png"
    broken.write_bytes(broken.read_bytes()[:100])
    _, error = training.ends()
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "3.png" in lines[0] and "cannot be read" in lines[0]
    assert training.checkpoint()["iteration"] >= 2


def test_a_process_that_runs_out_of_memory_is_named(start):
    sizes = ("INPUT.MIN_SIZE_RANGE_TRAIN", "(64, 1200)", "INPUT.MAX_SIZE_TRAIN", "1400")
    # oneDNN's channels-last convolutions crash when an allocation fails; then the launcher names only the signal.
    training = start(TWO_PROCESSES, *sizes, "SOLVER.CHANNELS_LAST", "False")
    pid = worker(training.process.pid, rank=1)
    in_use = next(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmSize")
    )
    # An image larger than all before needs more memory.
    resource.prlimit(pid, resource.RLIMIT_AS, (in_use, in_use))
    _, error = training.ends()
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert re.match(r"error: Out of memory: process 1 in iteration \d+, (forward|backward|optimizer step)", lines[0])
    assert "SOLVER.ACCUMULATE_STEPS" in lines[0]


def test_a_reader_that_is_killed_is_named(start):
    training = start((), "DATALOADER.NUM_WORKERS", "1")
    (reader,) = descendants(training.process.pid)
    os.kill(reader, signal.SIGKILL)
    output, error = training.ends()
    died = rf"^error: A worker of the data loader has died: DataLoader worker \(pid.* {reader}\) (is killed|exited)"
    assert re.search(died, error, re.MULTILINE)
    assert "Traceback" not in error
    assert training.checkpoint()["iteration"] >= 2 and "is saved, start again" in output


def test_a_process_that_hangs_is_waited_for_no_longer_than_the_timeout(start):
    three = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3")
    training = start(three, "SOLVER.IMS_PER_BATCH", "3", "DISTRIBUTED.TIMEOUT", "5")
    stopped = worker(training.process.pid, rank=1)
    os.kill(stopped, signal.SIGSTOP)
    others = [worker(training.process.pid, rank) for rank in (0, 2)]
    wait_for(lambda: not any(is_running(pid) for pid in others), SECONDS)
    # The launcher sends SIGTERM and waits half a minute before it kills a stopped process.
    os.kill(stopped, signal.SIGCONT)
    output, error = training.ends()
    for rank, text in ((0, output), (2, error)):
        where = rf"process {rank} in iteration \d+, \w+[\w ]*"
        assert re.search(rf"No progress for 5 s \(DISTRIBUTED\.TIMEOUT\): {where}; .* Exiting", text), text
    assert training.checkpoint()["iteration"] >= 2


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(start, small_disk):
    # A checkpoint of this network takes about 0.9 MB: the fourth or fifth does not fit.
    training = start((), "SOLVER.CHECKPOINT_PERIOD", "1", iterations=1, out=small_disk / "out")
    _, error = training.ends()
    assert "error: The checkpoint '" in error and "No space left on device" in error
    assert "Traceback" not in error
    saved = training.checkpoint()
    assert saved["iteration"] >= 1
    assert not list((small_disk / "out").glob("*.tmp"))
