"""Text of files and names, as terminal and log show it."""

import io

import pytest

from fcos_core.errors import InputError
from fcos_core.utils.text import Block, escape_unencodable, printable


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
