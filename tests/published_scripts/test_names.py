"""Every published name that docs/published_scripts.md lists is there, under both package names."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import fcos_core.as_maskrcnn_benchmark
from fcos_core.published_scripts import MODULES

PAGE = (Path(__file__).parents[2] / "docs/published_scripts.md").read_text(encoding="utf-8")
# Rows of the table of modules: | `utils.env` | `setup_environment` ... | ... |
ROWS = re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", PAGE, re.MULTILINE)
NAMES = [(module, name) for module, names in ROWS for name in re.findall(r"`([A-Za-z_0-9]+)", names)]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_name_that_the_page_lists_is_there(module, name):
    assert hasattr(importlib.import_module(f"fcos_core.{module}"), name)


def test_the_page_lists_every_module():
    assert {f"fcos_core.{module}" for module, _ in ROWS} >= set(MODULES)


def test_both_package_names_give_the_same_modules(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    fcos_core.as_maskrcnn_benchmark.install()
    try:
        for module in {module for module, _ in NAMES}:
            other = importlib.import_module(f"maskrcnn_benchmark.{module}")
            assert other is importlib.import_module(f"fcos_core.{module}")
        from maskrcnn_benchmark.config import cfg

        assert cfg is fcos_core.config.cfg
        assert fcos_core.config.__spec__.name == "fcos_core.config"
        with pytest.raises(ModuleNotFoundError, match="roi_heads"):
            importlib.import_module("maskrcnn_benchmark.modeling.roi_heads")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "maskrcnn_benchmark"]:
            del sys.modules[name]


def test_without_the_line_there_is_no_such_package():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("maskrcnn_benchmark")
