"""Text of files and names, as terminal and log show it."""

import io

import pytest

from fcos_core.config import cfg
from fcos_core.errors import InputError
from fcos_core.utils.collect_env import environment
from fcos_core.utils.text import Block, escape_unencodable, printable, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b[0m", r"a\x1b[31mred\x1b[0m"),
        ("one\ntwo\r\tthree", r"one\ntwo\r\tthree"),
        ("nul\x00 bell\x07 del\x7f csi\x9b", r"nul\x00 bell\x07 del\x7f csi\x9b"),
        ("right \u202eto left\u2066", r"right \u202eto left\u2066"),
        ("lines\u2028and\u2029paragraphs\x85", r"lines\u2028and\u2029paragraphs\x85"),
        ("invisible\u200b\ufeff\xad", r"invisible\u200b\ufeff\xad"),
        ("not UTF-8: \udcff", r"not UTF-8: \udcff"),
        ("tag \U000e0041", r"tag \U000e0041"),
        (
            "Café, кошка, 猫, \u05d7\u05ea\u05d5\u05dc, 🐱, नमस्\u200dते",
            "Café, кошка, 猫, \u05d7\u05ea\u05d5\u05dc, 🐱, नमस्\u200dते",
        ),
        (r"C:\new 'quoted'", r"C:\new 'quoted'"),
    ],
    ids=[
        "colors",
        "breaks",
        "controls",
        "bidi",
        "line separators",
        "invisible",
        "surrogate",
        "tag",
        "scripts",
        "plain",
    ],
)
def test_only_what_commands_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown


def test_the_line_breaks_of_a_block_stay():
    assert printable(Block("a\nb\x1b")) == "a\nb\\x1b"


def test_an_error_is_one_printable_line():
    error = InputError("'a\nb\x1b' is missing")
    assert str(error) == r"'a\nb\x1b' is missing"


def test_a_terminal_that_knows_ascii_alone():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    escape_unencodable(stream)
    stream.write("Größe 猫")
    stream.flush()
    assert stream.buffer.getvalue() == rb"Gr\xf6\xdfe \u732b"
    escape_unencodable(io.StringIO())  # has no encoding


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'https://me:geheim@h/w.pth' failed", "'https://***@h/w.pth' failed"),
        ("https://h/w.pth?token=geheim&dl=1#w.pth: 404", "https://h/w.pth?token=***&dl=***#w.pth: 404"),
        ("https://h/w.pth?geheim.", "https://h/w.pth?***."),
        ("s3://id:geheim@bucket/w.pth?sig=geheim", "s3://***@bucket/w.pth?sig=***"),
        ("http://me:ge/heim@h/w.pth", "http://***@h/w.pth"),
        ("http://me:ge heim@h/w.pth", "http://***@h/w.pth"),
        ("http:/me:geheim@h/w.pth", "http:/***@h/w.pth"),
        ("http://[::1]:80/a@b, http://h:80/a@b", "http://[::1]:80/a@b, http://h:80/a@b"),
        ("catalog://ImageNetPretrained/MSRA/R-50; a@b: c?d=e", "catalog://ImageNetPretrained/MSRA/R-50; a@b: c?d=e"),
    ],
)
def test_secrets_in_urls_are_hidden(text, shown):
    assert without_secrets(text) == printable(text) == shown
    assert str(InputError(text)) == shown


def test_secrets_stay_out_of_the_record_of_a_run(monkeypatch):
    config = cfg.clone()
    config.merge_from_list(["MODEL.WEIGHT", "https://me:geheim@h/w.pth?token=geheim"])
    assert "https://***@h/w.pth?token=***" in config.dump() and "geheim" not in config.dump()
    monkeypatch.setattr("sys.argv", ["train_net.py", "MODEL.WEIGHT", config.MODEL.WEIGHT])
    assert "geheim" not in environment()["Command"] and "@h/w.pth" in environment()["Command"]
