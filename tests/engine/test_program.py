"""What the programs show when they cannot go on."""

import pytest

from fcos_core.config import cfg
from fcos_core.engine.program import _config_lines, run_program
from fcos_core.errors import InputError, LostProcessError


def test_ctrl_c_leaves_without_a_traceback(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_program(interrupted)
    assert caught.value.code == 130  # 128 and the number of SIGINT, as shells have it
    assert capsys.readouterr().err == "Interrupted.\n"


def test_an_error_is_one_line(capsys):
    def fail():
        raise InputError("'a\x1b\nb' is missing")

    with pytest.raises(SystemExit) as caught:
        run_program(fail)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: 'a\\x1b\\nb' is missing\n"


def test_a_lost_process_is_one_line(capsys, monkeypatch):
    class Left(BaseException):
        pass

    def leave(status):
        raise Left

    def fail():
        raise LostProcessError("gloo:\x1b\nreset")

    monkeypatch.setattr("fcos_core.engine.program._LAUNCHER_SECONDS", 0)
    monkeypatch.setattr("fcos_core.utils.comm.exit_now", leave)
    with pytest.raises(Left):
        run_program(fail)
    assert capsys.readouterr().err == "error: gloo:\\x1b\\nreset\n"


def test_each_key_of_the_config_is_one_line():
    config = cfg.clone()
    config.merge_from_list(["MODEL.WEIGHT", "a\nSEED: 7\x1b", "DATASETS.CATALOG.b\n.img_dir", "c"])
    lines = list(_config_lines(config))
    assert r"  WEIGHT: a\nSEED: 7\x1b" in lines and r"    b\n:" in lines
    # As yacs writes it, with the three lines of the new dataset and without the blank line of an empty section.
    former = [line for line in str(cfg).splitlines() if line.strip()]
    assert len(lines) == len(former) + 2
