import logging

import pytest

from fcos_core.utils.logger import setup_logger

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
