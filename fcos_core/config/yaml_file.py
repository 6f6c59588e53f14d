"""Read YAML files, and the files that they name as their base, key by key."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from fcos_core.config.values import Plain, shown
from fcos_core.errors import InputError

# Key of a file whose values hold where this file says nothing; a list of files: the later ones win.
BASE = "_BASE_"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Limits that no config reaches. Without them a text of a few lines, whose aliases repeat aliases, fills the memory.
_MOST_BYTES = 2**20
_MOST_KEYS = 20_000
_PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


class Entry(NamedTuple):
    """Value of a key, and the place where it stands, for messages."""

    value: Any  # Plain for text without quotes, str for text in quotes; a list of them; None; {} for an empty section
    where: str


def read_yaml(path: str) -> dict[str, Entry]:
    """Return every key of the file, as a dotted name, with the keys of its bases.

    A base is relative to the file that names it. A path that starts with configs/ and does not exist is looked up among
    the configs that the package brings with it. Raise InputError if a file is missing, is not a YAML file of
    sections, names a key twice, or is its own base.
    """
    path = _find(os.path.expanduser(path), path)
    try:
        return _read(path, f"The config file {path!r}", (), {})
    except (RecursionError, MemoryError) as error:
        raise InputError(f"The config file {path!r} is nested too deeply: write sections and plain lists.") from error


def _read(path: str, name: str, chain: tuple[str, ...], done: dict[str, dict[str, Entry]]) -> dict[str, Entry]:
    """Read a file and its bases; `chain` are the files that led here, `done` what was read before."""
    real = os.path.realpath(path)
    if real in chain:
        raise InputError(f"{name} leads back to itself: {' -> '.join([*chain[chain.index(real) :], real])}.")
    if real not in done:
        own = dict(_Tree(path).entries(_compose(path, name)))
        entries: dict[str, Entry] = {}
        for base, where in _bases(own.pop(BASE, None), path):
            entries.update(_read(base, f"{where}: the {BASE} {base!r}", (*chain, real), done))
        done[real] = {**entries, **own}
    return done[real]


def _bases(entry: Entry | None, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each base of the file `path`, and where it is named."""
    if entry is None:
        return
    for base in entry.value if isinstance(entry.value, list) else [entry.value]:
        if not isinstance(base, str) or not base:
            raise InputError(f"{entry.where}: {BASE} takes the path of a YAML file, or a list of paths.")
        yield _find(os.path.join(os.path.dirname(path), os.path.expanduser(base)), base), entry.where


def _find(path: str, named: str) -> str:
    """Return `path`, or the package's own config of this name if there is one and `path` does not exist."""
    own = os.path.join(_PACKAGE, os.path.normpath(named))
    return own if named.startswith("configs/") and not os.path.exists(path) and os.path.exists(own) else path


def _compose(path: str, name: str) -> yaml.MappingNode:
    """Parse the file; `name` begins the message of an error."""
    if not os.path.isfile(path):
        what = "is not a file" if os.path.exists(path) else "does not exist"
        raise InputError(f"{name} {what} (looked at {os.path.abspath(path)}).")
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InputError(f"{name} is longer than {_MOST_BYTES} bytes: it is not a config.")
        node = yaml.compose(content, Loader=yaml.BaseLoader)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise InputError(f"{name} is not valid YAML: {_problem(error)}.") from error
    if node is None:
        raise InputError(f"{name} is empty: it must hold sections such as MODEL:.")
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{name} must hold sections such as MODEL:, not {_kind(node)}.")
    return node


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        advice = "; indent with spaces, not with tabs" if "\\t" in str(error.problem) else ""
        problem = " ".join(filter(None, (error.context, error.problem)))
        return f"{problem} (line {mark.line + 1}, column {mark.column + 1}){advice}"
    return f"it is not text in UTF-8 ({getattr(error, 'reason', error)})"


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return shown(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a section"


class _Tree:
    """Nodes of one YAML file, as PyYAML composes them, to keys and values."""

    def __init__(self, path: str) -> None:
        self._path = repr(path)[1:-1]  # a path may hold what moves a terminal's cursor
        self._visited = 0

    def entries(self, root: yaml.MappingNode) -> Iterator[tuple[str, Entry]]:
        """Yield every key with its value; raise InputError for a key that stands twice."""
        places: dict[str, str] = {}
        for key, entry in self._leaves(root, ""):
            if key in places:
                raise self._twice(key, entry.where, places[key])
            places[key] = entry.where
            yield key, entry

    def _leaves(self, section: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, Entry]]:
        for name, (key_node, node) in self._pairs(section, prefix).items():
            key = prefix + name
            if isinstance(node, yaml.MappingNode) and node.value:
                self._visit(node)
                yield from self._leaves(node, f"{key}.")
            else:
                yield key, Entry(self._value(node, key), self._where(key_node))

    def _pairs(self, section: yaml.MappingNode, prefix: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the nodes of each key and value of a section, those of its `<<` sections included."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, node in section.value:
            self._visit(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(
                    f"{self._where(key_node)}: a key must be a name, such as MODEL, not {_kind(key_node)}."
                )
            name = key_node.value
            if name == "<<" and key_node.style is None:
                for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
                    if not isinstance(source, yaml.MappingNode):
                        raise InputError(f"{self._where(key_node)}: << takes a section, such as *NAME.")
                    merged = {**self._pairs(source, prefix), **merged}
            elif name in own:
                raise self._twice(prefix + name, self._where(key_node), self._where(own[name][0]))
            else:
                own[name] = (key_node, node)
        return {**merged, **own}

    def _value(self, node: yaml.Node, key: str) -> Any:
        self._visit(node)
        if node.tag not in _PLAIN_TAGS:
            raise InputError(f"{self._where(node)}: {key!r} has the tag {node.tag!r}: write a plain value.")
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, key) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            if node.value:
                raise InputError(f"{self._where(node)}: {key!r} has a section in a list; a list holds values only.")
            return {}
        return Plain(node.value) if node.style is None else node.value

    def _visit(self, node: yaml.Node) -> None:
        self._visited += 1
        if self._visited > _MOST_KEYS:
            raise InputError(
                f"{self._where(node)}: more than {_MOST_KEYS} values, with those that aliases (*NAME) repeat."
            )

    def _where(self, node: yaml.Node) -> str:
        return f"line {node.start_mark.line + 1} of {self._path}"

    @staticmethod
    def _twice(key: str, second: str, first: str) -> InputError:
        return InputError(f"{second}: {key!r} stands here a second time, after {first}: join the two.")
