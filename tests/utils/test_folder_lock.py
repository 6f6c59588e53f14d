"""The lock that keeps two trainings from one folder."""

import errno
import os
import shutil
import signal

import pytest

from fcos_core.errors import InputError
from fcos_core.utils import folder_lock
from fcos_core.utils.folder_lock import LOCK_FILE, FolderLock, locked


class Holder:
    """Another process that holds the lock of a folder until it is killed."""

    def __init__(self, folder):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            folder_lock._held.clear()
            with locked(str(folder)):
                os.write(writer, b"h")
                signal.pause()
        os.close(writer)
        assert os.read(reader, 1) == b"h"
        os.close(reader)

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


@pytest.fixture
def hold(monkeypatch):
    """Return a function that holds the lock of a folder in another process."""
    monkeypatch.setattr(folder_lock, "_PATIENCE_SECONDS", 0.3)
    holders = []

    def start(folder):
        holders.append(Holder(folder))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


def test_a_second_training_is_refused_until_the_first_is_gone_however_it_goes(tmp_path, hold):
    first = hold(tmp_path / "out")
    with pytest.raises(InputError, match=rf"out' is in use by another training \(process {first.pid} on host "):
        FolderLock(str(tmp_path / "out"))
    (tmp_path / "out" / "model_0000001.pth.tmp").touch()
    first.kill()
    with locked(str(tmp_path / "out")):
        assert os.listdir(tmp_path / "out") == [LOCK_FILE]


def test_a_waiting_training_gets_the_folder_of_one_that_leaves(tmp_path, hold, monkeypatch):
    first = hold(tmp_path)
    monkeypatch.setattr(folder_lock, "_PATIENCE_SECONDS", 30)
    monkeypatch.setattr(folder_lock.time, "sleep", lambda _: first.kill())
    FolderLock(str(tmp_path)).release()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path, hold):
    with locked(str(tmp_path)):
        worker = os.fork()
        if worker == 0:
            signal.pause()
    try:
        hold(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_blocks_within_a_block_share_its_lock(tmp_path, hold):
    with locked(str(tmp_path)) as outer:
        with locked(f"{tmp_path}/.") as inner:
            assert inner is outer
        outer.check()
    hold(tmp_path)


@pytest.mark.parametrize("replaced", ["deleted", "moved", "a file"])
def test_a_folder_that_is_replaced_is_noticed(tmp_path, hold, replaced):
    folder = tmp_path / "out"
    with locked(str(folder)) as lock:
        lock.check()
        shutil.move(folder, tmp_path / "former") if replaced == "moved" else shutil.rmtree(folder)
        if replaced == "a file":
            folder.touch()
        with pytest.raises(InputError, match="out' was deleted, moved or replaced during the training"):
            lock.check()
        if replaced == "a file":
            return
        lock.renew()
        lock.check()
        shutil.rmtree(folder)
        second = hold(folder)
        with pytest.raises(InputError, match=rf"in use by another training \(process {second.pid}"):
            lock.renew()


def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "lockf", fail)
    with locked(str(tmp_path)):
        pass
    assert "cannot be locked (No locks available): make sure that no second training writes there" in caplog.text


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="out' cannot be written"), locked(str(tmp_path / "out")):
        pass
