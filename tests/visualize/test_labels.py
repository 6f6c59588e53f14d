"""Class names of any script: drawn in a font that has their characters, or replaced, with one line that says so."""

from pathlib import Path

import pytest
from matplotlib import get_data_path
from PIL import Image, ImageDraw

from fcos_core.visualize import labels
from fcos_core.visualize.labels import Labels

# A font with U+214A, which DejaVu Sans lacks, and one that is damaged.
STIX = str(Path(get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf")
PROPERTY_LINE = "\N{PROPERTY LINE}"


@pytest.fixture(autouse=True)
def machine_fonts(monkeypatch, tmp_path):
    """Return a list that stands for the fonts of the machine; at first there is a damaged one."""
    (tmp_path / "damaged-regular.ttf").write_bytes(b"not a font")
    files = [str(tmp_path / "damaged-regular.ttf")]
    monkeypatch.setattr(labels, "findSystemFonts", lambda: files)
    return files


def drawn(fonts, text):
    """Return the picture of a text as bytes."""
    image = Image.new("L", (200, 40))
    fonts.write(ImageDraw.Draw(image), (5, 5), text, 20, "white")
    assert image.getbbox() is not None
    return image.tobytes()


@pytest.mark.parametrize(
    "names", [("Café", "Cafe"), ("собака", "кошка"), ("قطة", "كلب"), ("αβγ", "δεζ"), ("שלום", "בית")]
)
def test_matplotlibs_font_draws_latin_cyrillic_arabic_greek_and_hebrew(names, caplog):
    fonts = Labels(names)
    assert [fonts.name(1), fonts.name(2)] == list(names) and not caplog.records
    # Boxes that stand for missing characters would look the same.
    assert drawn(fonts, names[0]) != drawn(fonts, names[1])


def test_a_font_of_the_machine_draws_what_matplotlibs_lacks(machine_fonts, caplog):
    machine_fonts.append(STIX)
    fonts = Labels([f"a {PROPERTY_LINE} b"])
    assert fonts.name(1) == f"a {PROPERTY_LINE} b" and not caplog.records
    width, height = fonts.measure(fonts.name(1), 20)
    assert width > fonts.measure("a  b", 20)[0] and height >= 20
    assert drawn(fonts, fonts.name(1)) != drawn(fonts, "a  b")


def test_names_that_no_font_has_become_numbers_and_one_line_says_which_font_to_install(caplog):
    fonts = Labels(["猫", "cat", "犬", "\ud83d torn"])
    assert [fonts.name(label) for label in (1, 2, 3, 4)] == ["class 1", "cat", "class 3", "class 4"]
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    for part in ("3 of 4 class names", "'猫'", "'class 1'", "install", "fonts-noto-cjk"):
        assert part in record.getMessage()


def test_marks_and_joiners_need_no_font_of_their_own(caplog):
    # A combining accent, and an invisible joiner.
    assert Labels(["e\u0301\u200dx"]).name(1) == "e\u0301\u200dx" and not caplog.records


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *(("a\nb\tc", "a b c"), ("a\x1b[31mb", "a [31mb"), ("  ", "class 1"), ("\x07", "class 1")),
        ("\u202etac\u2067", "tac"),  # directions, which would turn the score around
    ],
)
def test_a_name_is_one_line_without_control_characters(name, shown, caplog):
    assert Labels([name]).name(1) == shown and not caplog.records


@pytest.mark.parametrize("label", [0, -1, 3, 80])
def test_a_label_without_a_name_is_a_number(label):
    assert Labels(["a", "b"]).name(label) == f"class {label}"
