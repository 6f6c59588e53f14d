"""Files that are replaced as a whole, and folders that are checked before they are needed."""

import os
import signal
import subprocess
import time

import pytest

from fcos_core.errors import InputError
from fcos_core.utils.files import check_writable, explaining_failure, remove_leftovers, replacing


def test_two_writers_of_one_file_each_write_a_whole_file(tmp_path):
    path = str(tmp_path / "model.pth")
    with replacing(path) as first:
        first.write(b"first half, ")
        with replacing(path) as second:
            second.write(b"second")
        assert (tmp_path / "model.pth").read_bytes() == b"second"
        first.write(b"other half")
    assert (tmp_path / "model.pth").read_bytes() == b"first half, other half"
    assert os.listdir(tmp_path) == ["model.pth"]


def test_a_child_that_dies_does_not_interrupt_the_writing(tmp_path):
    def as_torch_answers(*_):
        raise RuntimeError("DataLoader worker (pid 1) is killed")

    former = signal.signal(signal.SIGCHLD, as_torch_answers)
    try:
        with replacing(str(tmp_path / "a")) as file:
            subprocess.Popen(["true"])
            time.sleep(0.2)
            file.write(b"whole")
    finally:
        signal.signal(signal.SIGCHLD, former)
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    mine = ["model_0000002.pth.tmp", "metrics.jsonl.tmp", "last_checkpoint.tmp", "model_best.pth.0123456789abcdef.tmp"]
    others = ["model_0000002.pth", "notes.tmp", "weights.pth.tmp", "model.pth.0123.tmp"]
    for name in mine + others:
        (tmp_path / name).touch()
    remove_leftovers(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(others)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: folder.write_text(""), ["OUTPUT_DIR '", "out'", "File exists"]),
        (lambda folder: (folder / "log.txt").mkdir(parents=True), ["log.txt' in OUTPUT_DIR", "Is a directory"]),
        (lambda folder: (folder.mkdir(), os.mkfifo(folder / "log.txt")), ["log.txt' in OUTPUT_DIR", "No such device"]),
    ],
    ids=["a file", "a folder for a file", "a pipe for a file"],
)
def test_what_cannot_be_written_to_is_named_before_the_work(tmp_path, spoil, words):
    spoil(tmp_path / "out")
    with pytest.raises(InputError) as caught:
        check_writable(str(tmp_path / "out"), "OUTPUT_DIR", "log.txt")
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nul\x00", r"nul\\x00' cannot be written to \(embedded null byte\)"),
        ("\udcff", r"\\udcff' cannot be written to \(its name is not UTF-8\)"),
    ],
)
def test_names_that_no_folder_can_have(tmp_path, name, sentence):
    with pytest.raises(InputError, match=sentence):
        check_writable(str(tmp_path / name), "OUTPUT_DIR")


def test_a_check_leaves_files_as_they_are(tmp_path):
    (tmp_path / "log.txt").write_text("lines")
    check_writable(str(tmp_path), "OUTPUT_DIR", "log.txt", "metrics.jsonl")
    assert (tmp_path / "log.txt").read_text() == "lines" and os.listdir(tmp_path) == ["log.txt"]


def test_a_failed_write_names_the_file_and_the_reason(tmp_path):
    sentence = r"none/a' cannot be written \(No such file or directory\): free disk space"
    with pytest.raises(InputError, match=sentence), explaining_failure(tmp_path):
        (tmp_path / "none" / "a").write_text("")
