import contextlib
import logging
import shutil
import sys

import pytest

from fcos_core.errors import InputError
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.text import Block

NAME = "logger_test_package"


@pytest.fixture(autouse=True)
def clean():
    yield
    logger = logging.getLogger(NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def test_rank_0_writes_to_stdout_and_file(tmp_path, capsys):
    setup_logger(NAME, str(tmp_path / "new" / "folder"), 0)
    logging.getLogger(f"{NAME}.trainer").info("eta: %d", 3)
    logging.getLogger(NAME).debug("not this")
    out, err = capsys.readouterr()
    assert out.endswith(f" {NAME}.trainer INFO: eta: 3\n") and out.count("\n") == 1 and err == ""
    assert (tmp_path / "new" / "folder" / "log.txt").read_text() == out


def test_second_call_replaces_the_first(tmp_path, capsys):
    setup_logger(NAME, str(tmp_path), 0)
    logger = setup_logger(NAME, str(tmp_path), 0, filename="other.txt")
    logger.info("once")
    assert capsys.readouterr().out.count("once") == 1
    assert (tmp_path / "log.txt").read_text() == ""
    assert (tmp_path / "other.txt").read_text().count("once") == 1


def test_the_file_is_appended_to(tmp_path):
    for word in ("first", "second"):
        setup_logger(NAME, str(tmp_path), 0).info(word)
    assert [line.split()[-1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first", "second"]


def test_other_ranks_write_warnings_to_stderr_alone(tmp_path, capsys):
    logger = setup_logger(NAME, str(tmp_path), 3)
    logger.info("unseen")
    logger.warning("seen")
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("[rank 3] ") and err.endswith("WARNING: seen\n")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_handlers_of_others_stay():
    mine = logging.NullHandler()
    logging.getLogger(NAME).addHandler(mine)
    former = list(logging.getLogger(NAME).handlers)
    setup_logger(NAME, "", 0)
    handlers = setup_logger(NAME, "", 0).handlers
    assert handlers[:-1] == former and mine in former


def test_names_from_files_neither_break_lines_nor_command_the_terminal(tmp_path, capsys):
    logger = setup_logger(NAME, str(tmp_path), 0)
    logger.info("%s and %r: %.2f of %d", "a\nFAKE INFO: b\x1b[2J", ["c\n"], 0.5, 3)
    logger.warning("table\n%s", Block("one\ntwo\x1b"))
    try:
        raise ValueError("d\x1b")
    except ValueError as error:
        logger.exception("%s", error)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(r"INFO: a\nFAKE INFO: b\x1b[2J and ['c\n']: 0.50 of 3")
    assert lines[1].endswith("WARNING: table") and lines[2:4] == ["one", r"two\x1b"]
    assert lines[4].endswith(r"ERROR: d\x1b") and lines[5].startswith("Traceback") and lines[-1] == r"ValueError: d\x1b"
    assert (tmp_path / "log.txt").read_text().splitlines() == lines


def test_a_log_that_vanishes_is_named_once_and_costs_nothing_else(tmp_path, capsys):
    logger = setup_logger(NAME, str(tmp_path / "out"), 0)
    logger.info("before")
    shutil.rmtree(tmp_path / "out")
    for _ in range(2):
        logger.info("gone")
    (tmp_path / "out").mkdir()
    logger.info("back")
    out, err = capsys.readouterr()
    assert [line.split()[-1] for line in out.splitlines()] == ["before", "gone", "gone", "back"]
    assert err.startswith("warning: the log cannot be written any more: ") and "log.txt" in err and err.count("\n") == 1
    assert (tmp_path / "out" / "log.txt").read_text().split()[-1] == "back"


@pytest.mark.parametrize("stderr_is_full", [False, True])
def test_a_terminal_log_on_a_full_disk_costs_nothing_else(tmp_path, monkeypatch, capsys, stderr_is_full):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        if stderr_is_full:
            monkeypatch.setattr(sys, "stderr", full)
        logger = setup_logger(NAME, str(tmp_path), 0)
        logger.info("one")
        logger.info("two")
        with contextlib.suppress(OSError):
            full.close()
    expected = "warning: the log cannot be written any more: [Errno 28] No space left on device\n"
    assert capsys.readouterr().err == ("" if stderr_is_full else expected)
    assert (tmp_path / "log.txt").read_text().count("\n") == 2


def test_a_log_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(InputError, match=r"log\.txt' cannot be written \(Is a directory\)"):
        setup_logger(NAME, str(tmp_path), 0)
