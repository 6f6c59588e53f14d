"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing for short work."""

import io
import logging

import pytest

from fcos_core.utils import progress as module
from fcos_core.utils.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def use_terminal(monkeypatch):
    """Return a function to call within the test, as pytest sets sys.stderr between fixtures and test."""

    def use():
        stream = Terminal()
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return use


def test_short_work_shows_nothing(use_terminal, caplog):
    terminal = use_terminal()
    assert list(progress(range(3), 3, "Counting")) == [0, 1, 2]
    assert terminal.getvalue() == "" and not caplog.records


def test_long_work_shows_a_bar_on_a_terminal(use_terminal, monkeypatch):
    terminal = use_terminal()
    monkeypatch.setattr(module, "_DELAY", 0)
    # Batches of two on two processes: four images each, and not more than there are.
    assert list(progress(["ab", "cd"], 5, "Counting", size=lambda batch: 2 * len(batch))) == ["ab", "cd"]
    last = terminal.getvalue().rstrip("\n").split("\r")[-1]
    assert last.startswith("Counting: 100%") and "5/5" in last and "image/s" in last


def test_long_work_shows_plain_lines_elsewhere(monkeypatch, caplog):
    monkeypatch.setattr(module, "_PERIOD", 0)
    with caplog.at_level(logging.INFO):
        assert list(progress("ab", 2, "Reading", "file")) == ["a", "b"]
        assert list(progress("c", None, "Reading", "file")) == ["c"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["Reading: 1 of 2 files done", "Reading: 2 of 2 files done", "Reading: 1 files done"]


def test_other_processes_only_yield(use_terminal, monkeypatch, caplog):
    terminal = use_terminal()
    monkeypatch.setattr(module, "_DELAY", 0)
    assert list(progress("ab", 2, "Counting", shown=False)) == ["a", "b"]
    assert terminal.getvalue() == "" and not caplog.records
