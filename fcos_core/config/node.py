"""Configuration node of yacs whose errors name the file, the key and the nearest known key."""

import ast
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from yacs.config import CfgNode

from fcos_core.errors import InputError
from fcos_core.utils.text import without_secrets

# Section whose keys the user chooses: names of datasets.
CATALOG = "DATASETS.CATALOG"


class Config(CfgNode):
    """Nested configuration with typed values.

    Works like `yacs.config.CfgNode`. Merging raises `InputError` for a missing file, broken YAML, an unknown key
    (the message names the nearest known key) and a value of the wrong type. A float key accepts an integer, a tuple
    key accepts a list, and a list key accepts a tuple.
    """

    def merge_from_file(self, cfg_filename: str) -> None:
        """Merge the YAML file `cfg_filename`."""
        for where, key, value in self._read(cfg_filename):
            self._set(key, value, where)

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge `[key, value, key, value, ...]`, as a command line gives them."""
        if len(cfg_list) % 2:
            raise InputError(
                f"Overrides come as KEY VALUE pairs; {len(cfg_list)} words were given, the last is '{cfg_list[-1]}'."
            )
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            self._set(str(key), value, "command line")

    def dump(self, **kwargs: Any) -> str:
        """Return the config as YAML text without the secrets in URLs, as it goes into files that people pass on."""
        return without_secrets(super().dump(**kwargs))

    def known_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield every leaf key as a dotted name."""
        for name, value in self.items():
            if isinstance(value, CfgNode) and prefix + name != CATALOG:
                yield from value.known_keys(f"{prefix}{name}.")
            else:
                yield prefix + name

    @staticmethod
    def _read(path: str) -> Iterator[tuple[str, str, Any]]:
        if not os.path.isfile(path):
            raise InputError(f"The config file '{path}' does not exist (looked at {os.path.abspath(path)}).")
        try:
            with open(path, encoding="utf-8") as file:
                tree = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"The config file '{path}' is not valid YAML: {error}") from error
        if tree is None:
            return
        if not isinstance(tree, Mapping):
            raise InputError(f"The config file '{path}' must hold sections such as MODEL:, not {tree!r}.")
        yield from ((path, key, value) for key, value in _leaves(tree))

    def _set(self, key: str, value: Any, where: str) -> None:
        in_catalog = key.startswith(f"{CATALOG}.")
        if in_catalog and key.count(".") != CATALOG.count(".") + 2:
            raise InputError(
                f"{where}: '{key}' must read {CATALOG}.NAME.img_dir or {CATALOG}.NAME.ann_file; NAME has no dots."
            )
        *sections, name = key.split(".")
        node: CfgNode = self
        for depth, section in enumerate(sections):
            if node.get(section) is None and ".".join(sections[:depth]) == CATALOG:
                node[section] = Config()
            node = node.get(section)
            if not isinstance(node, CfgNode):
                raise self._unknown(key, where)
        if name not in node and not in_catalog:
            raise self._unknown(key, where)
        if isinstance(node.get(name), CfgNode):
            if not value:  # an empty section of a YAML file
                return
            raise InputError(f"{where}: '{key}' is a section; set one of its keys, not the section to {value!r}.")
        if self.is_frozen():
            raise AttributeError(f"Attempted to set {key} to {value}, but the config is frozen")
        node[name] = _coerce(value, node.get(name), key, where)

    def _unknown(self, key: str, where: str) -> InputError:
        known = list(self.known_keys())
        # A correct name in the wrong section is nearer than a wrong name in the correct section.
        by_name = difflib.get_close_matches(_last(key), map(_last, known), n=1, cutoff=0.8)
        candidates = [k for k in known if _last(k) in by_name] or known
        near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.0)[0]
        return InputError(f"{where}: unknown config key '{key}'; the nearest known key is '{near}'.")


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _decode(value: Any) -> Any:
    """Evaluate a string that is a Python literal, such as "(800,)", as yacs does."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _coerce(raw: Any, default: Any, key: str, where: str) -> Any:
    """Convert `raw` to the type of `default`.

    Raises:
        InputError: the value has another type.
    """
    value = _decode(raw)
    if default is None:
        return value
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if fits else value
    elif isinstance(default, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, (list, tuple)):
        fits = isinstance(value, (list, tuple))
        value = type(default)(value) if fits else value
    elif isinstance(default, str):
        # A number under a string key keeps its text, such as "007".
        fits = isinstance(raw, (str, int, float)) and not isinstance(raw, bool)
        value = value if isinstance(value, str) else str(raw)
    else:
        fits = isinstance(value, type(default))
    if not fits:
        raise InputError(
            f"{where}: '{key}' takes {_article(default)}, such as {default!r}; {raw!r} is {_article(value)}."
        )
    return value


def _article(value: Any) -> str:
    """Return the name of the type of `value` with its article, such as "an integer"."""
    name = {"str": "string", "int": "integer", "bool": "boolean", "NoneType": "nothing"}.get(
        type(value).__name__, type(value).__name__
    )
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
