"""Test that reading in pieces gives the result of json.loads for any size of the pieces."""

import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_core.data import json_stream
from fcos_core.data.json_stream import BrokenJSONError, explain_broken_json, read_members
from fcos_core.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def members(data: bytes, chunk: int = 1 << 20):
    """Return the members that are read, with arrays as lists."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        return [
            (key, list(value) if hasattr(value, "__next__") else value) for key, value in read_members(io.BytesIO(data))
        ]


@settings(derandomize=True, deadline=None)
@given(
    st.dictionaries(st.text(max_size=4), VALUES, max_size=4),
    st.integers(1, 40),
    st.sampled_from([None, 2]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.booleans(),
)
def test_members_are_those_of_the_whole(tree, chunk, indent, encoding, ascii_only):
    data = json.dumps(tree, indent=indent, ensure_ascii=ascii_only).encode(encoding, "surrogatepass")
    assert members(data, chunk) == list(tree.items())


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.integers(1, 40), st.data())
def test_what_is_not_one_object_is_refused(tree, chunk, data):
    text = json.dumps(tree)
    broken = data.draw(
        st.integers(0, len(text) - 1).map(lambda cut: text[:cut])
        | st.integers(0, len(text)).map(lambda place: text[:place] + "]" + text[place:])
        | st.just(text + "{}")
    )
    try:
        expected = json.loads(broken)  # a bracket within a text breaks nothing
    except json.JSONDecodeError as error:
        with pytest.raises(BrokenJSONError) as caught:
            members(broken.encode(), chunk)
        # Other Python versions word and place a few faults differently from their decoder of single values.
        place = re.search(r"line (\d+), column (\d+) \(character (\d+)\)", str(caught.value))
        assert abs(int(place[3]) - error.pos) <= 1
    else:
        assert members(broken.encode(), chunk) == list(expected.items())


@pytest.mark.parametrize(
    "text", ["", " ", '{"a": 1,}', '{"a" 1}', '{"a": [1,]}', '{"a": [1 2]}', "{1: 2}", "[1", "3 4"]
)
def test_text_that_is_not_json(text):
    with pytest.raises(BrokenJSONError):
        members(text.encode())


@pytest.mark.parametrize("value", [[], [1, [2], {"a": 3}], 3, "a", None])
def test_another_value_than_an_object_is_a_member_without_a_key(value):
    assert members(json.dumps(value).encode()) == [(None, value)]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_the_place_of_a_fault_is_that_in_the_file(chunk):
    text = '{"a": [1,\n2],\n "b": {"c":\n\n  nul}}'
    # The third line feed ends line 4; the word begins at column 3 of line 5.
    with pytest.raises(BrokenJSONError, match=rf"line 5, column 3 \(character {text.index('nul')}\)"):
        members(text.encode(), chunk)


def test_a_fault_is_found_without_reading_on(monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    file = io.BytesIO(b'{"a": [' + b"1, " * 100 + b"oops, " + b"1, " * 10_000 + b"1]}")
    with pytest.raises(BrokenJSONError, match=r"character 307"):
        [list(value) for _, value in read_members(file)]
    assert file.tell() < 600


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": ' + "[" * 100_000, "nested too deep"),
        ('{"a": ' + '{"b": ' * 100_000, "nested too deep"),
        ("[" * 100_000, "nested too deep"),
        ('{"a": [1' + "0" * 5000 + "]}", r"too many digits .* line 1, column 8"),
        ('{"a": [\n{"b": 1, "c": {"x": 1, "y": 2, "x": 1}}]}', r"key 'x' stands twice .* line 2, column 1"),
        ('{"a": "\xff"}', "cannot be read as JSON"),
        ('{"a": 1', "not valid JSON.*line 1, column 8.*cut short"),
    ],
    ids=["lists", "objects", "list of lists", "digits", "key twice", "bytes", "cut"],
)
def test_whatever_stops_the_reading_is_one_sentence_with_the_file(text, sentence):
    with (
        pytest.raises(InputError, match=rf"^The note 'n\.json' .*{sentence}") as caught,
        explain_broken_json("note", "n.json"),
    ):
        members(text.encode("latin-1"))
    assert len(str(caught.value)) < 300


def test_memory_that_is_short_is_one_sentence_with_the_file():
    with pytest.raises(InputError, match=r"'n\.json' does not fit into memory"), explain_broken_json("note", "n.json"):
        raise MemoryError


def test_elements_that_are_not_taken_are_skipped():
    data = b'{"a": [1, {"b": [2]}, "]"], "c": [], "d": {"e": []}, "a": [4]}'
    keys, taken = [], []
    for key, value in read_members(io.BytesIO(data)):
        keys.append(key)
        taken += [next(value)] if key == "a" else []
    assert keys == ["a", "c", "d", "a"] and taken == [1, 4]


def test_one_piece_is_held_at_a_time(monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    held = []

    class Window(json_stream._Window):
        def value(self):
            held.append(len(self._text))
            return super().value()

    monkeypatch.setattr(json_stream, "_Window", Window)
    data = json.dumps({"a": [{"b": "x" * 30}] * 1000}).encode()
    assert sum(len(list(value)) for _, value in read_members(io.BytesIO(data))) == 1000
    # The window holds one piece and the rest of the piece before.
    assert len(data) > 40_000 and max(held) < 300
