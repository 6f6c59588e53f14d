"""What a command says about its arguments."""

import pytest

from fcos_core.utils.arguments import ArgumentParser


def test_an_argument_commands_no_terminal(capsys):
    with pytest.raises(SystemExit):
        ArgumentParser(prog="train").parse_args(["--no\x1b[2J\nerror: fake"])
    assert capsys.readouterr().err.splitlines()[-1] == r"train: error: unrecognized arguments: --no\x1b[2J\nerror: fake"


@pytest.mark.parametrize(
    ("first", "name"),
    [("/venv/bin/fcos", "fcos test"), ("/x/fcos_core/__main__.py", "fcos test"), ("tools/test_net.py", "test_net.py")],
)
def test_usage_names_the_program(first, name, monkeypatch):
    monkeypatch.setattr("sys.argv", [first, "test", "--help"])
    assert ArgumentParser().format_usage() == f"usage: {name} [-h]\n"
