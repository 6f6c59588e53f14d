"""Configuration node of yacs whose errors name the file, the line, the key and the nearest known key."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from fcos_core.config.values import coerce, shown
from fcos_core.config.yaml_file import read_yaml
from fcos_core.errors import InputError
from fcos_core.utils.text import without_secrets

# Section whose keys the user chooses: names of datasets.
CATALOG = "DATASETS.CATALOG"
# Keys whose values are paths, in any section.
PATHS = ("OUTPUT_DIR", "WEIGHT", "DATA_DIR", "PATHS_CATALOG", "img_dir", "ann_file")
# Name, in a config's attributes, of the set of its merged keys.
_MERGED = "_merged_keys"
# The same, of the list of its notes.
_NOTES = "_notes"
_OTHER_DETECTORS = re.compile(
    r"MODEL\.(RPN|ROI_\w+|RETINANET|ANCHOR_GENERATOR|PROPOSAL_GENERATOR|SEM_SEG_HEAD|PANOPTIC_FPN|FBNET)\b"
)


class Config(CfgNode):
    """Nested configuration with typed values.

    Works like `yacs.config.CfgNode`. Merging raises `InputError` for a missing file, broken YAML, an unknown key
    (the message names the nearest known key) and a value of the wrong type. A float key accepts an integer, an integer
    key a whole float, a tuple key a list, and a list key a tuple. A path that starts with ~ is expanded however it is
    set.
    """

    def __setitem__(self, name: str, value: Any) -> None:
        is_path = name in PATHS and isinstance(value, str)
        super().__setitem__(name, os.path.expanduser(value) if is_path else value)

    def merge_from_file(self, cfg_filename: str) -> None:
        """Merge the YAML file `cfg_filename`, and before it the files that its key _BASE_ names."""
        entries = read_yaml(os.fspath(cfg_filename))
        # The keys of another detector come first: they say more than any other key that is unknown.
        for key in sorted(entries, key=lambda key: not _OTHER_DETECTORS.match(key)):
            self._set(key, *entries[key])

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Merge another config, such as one that `load_cfg` returns."""
        for key, value in leaves(cfg_other):
            self._set(key, value, "merged config")

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge `[key, value, key, value, ...]`, as a command line gives them."""
        if len(cfg_list) % 2:
            raise InputError(
                f"Overrides come as KEY VALUE pairs; {len(cfg_list)} words were given, the last is "
                f"{shown(cfg_list[-1])}."
            )
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            self._set(str(key), value, "command line")

    def dump(self, **kwargs: Any) -> str:
        """Return the config as YAML text without the secrets in URLs, as it goes into files that people pass on."""
        return without_secrets(super().dump(**kwargs))

    def was_merged(self, key: str) -> bool:
        """Return True if a file, a command line or another config has set `key`, a dotted name, of this config."""
        return key in self.__dict__.get(_MERGED, ())

    def note(self, sentence: str) -> None:
        """Keep a sentence about values that a program has put in, for the log of its run; see `notes`."""
        self.__dict__.setdefault(_NOTES, []).append(sentence)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that `note` was given."""
        return tuple(self.__dict__.get(_NOTES, ()))

    def known_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield every leaf key as a dotted name."""
        for name, value in self.items():
            if isinstance(value, Config) and prefix + name != CATALOG:
                yield from value.known_keys(f"{prefix}{name}.")
            else:
                yield prefix + name

    def _set(self, key: str, value: Any, where: str) -> None:
        if self.is_frozen():
            raise AttributeError(f"Attempted to set {key} to {value}, but the config is frozen")
        in_catalog = key.startswith(f"{CATALOG}.")
        if in_catalog and key.count(".") != CATALOG.count(".") + 2:
            raise InputError(
                f"{where}: {key!r} must read {CATALOG}.NAME.img_dir or {CATALOG}.NAME.ann_file; NAME has no dots."
            )
        *sections, name = key.split(".")
        node: CfgNode = self
        for depth, section in enumerate(sections):
            is_new = node.get(section) is None
            if is_new and (node.is_new_allowed() or ".".join(sections[:depth]) == CATALOG):
                node[section] = Config(new_allowed=node.is_new_allowed())
            node = node.get(section)
            if not isinstance(node, CfgNode):
                raise self._unknown(key, where)
        if name not in node and not in_catalog and not node.is_new_allowed():
            raise self._unknown(key, where)
        if isinstance(node.get(name), CfgNode):
            if not value:  # an empty section of a YAML file
                return
            raise InputError(f"{where}: {key!r} is a section; set one of its keys, not the section to {shown(value)}.")
        node[name] = coerce(value, "" if in_catalog else node.get(name), key, where)
        self.__dict__.setdefault(_MERGED, set()).add(key)

    def _unknown(self, key: str, where: str) -> InputError:
        if _OTHER_DETECTORS.match(key):
            return InputError(
                f"{where}: {key!r} belongs to another detector (Faster R-CNN, Mask R-CNN, RetinaNet, ...), and only "
                "FCOS is built here: start from a file of configs/fcos."
            )
        known = list(self.known_keys())
        # A correct name in the wrong section is nearer than a wrong name in the correct section.
        by_name = difflib.get_close_matches(_last(key), map(_last, known), n=1, cutoff=0.8)
        candidates = [k for k in known if _last(k) in by_name] or known
        near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.0)[0]
        return InputError(f"{where}: unknown config key {shown(key)}; the nearest known key is '{near}'.")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a tree of sections, as a dotted name, with its value; an empty section is a value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]
