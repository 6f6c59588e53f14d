"""Test that reading in pieces gives the result of json.loads for any size of the pieces."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_core.data import json_stream
from fcos_core.data.json_stream import read_members

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
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            members(broken.encode(), chunk)
    else:
        assert members(broken.encode(), chunk) == list(expected.items())


@pytest.mark.parametrize("text", ["", " ", "[]", "3", '{"a": 1,}', '{"a" 1}', '{"a": [1,]}', '{"a": [1 2]}', "{1: 2}"])
def test_text_that_is_no_object(text):
    with pytest.raises(json.JSONDecodeError):
        members(text.encode())


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
