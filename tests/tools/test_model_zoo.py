"""The YAML files of configs/zoo build, and docs/MODEL_ZOO.md lists what there is."""

import re
from pathlib import Path

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.data.category_names import category_names
from fcos_core.modeling.detector import build_detection_model
from fcos_core.weights.zoo import ZOO
from reproduce_table import HRNET_FCOS

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs" / "zoo").glob("*.yaml"))
PAGE = (ROOT / "docs" / "MODEL_ZOO.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
# The rows of the tables by name, without headings.
MODELS = {row[0]: row[1:] for row in ROWS if "_" in row[0]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_yaml_of_the_zoo_names_its_weights_and_builds_a_detector_of_coco(file):
    config = cfg.clone()
    config.merge_from_file(str(file))
    name = config.MODEL.WEIGHT.removeprefix("zoo://")
    assert ZOO[name].conventions == file.stem
    # It names the best of its files.
    assert ZOO[name].ap == max(model.ap for model in ZOO.values() if model.conventions == file.stem)
    with torch.device("meta"):
        model = build_detection_model(config)
    assert MODELS[name][2] == f"{sum(parameter.numel() for parameter in model.parameters()):,}"
    names = category_names(config)
    assert len(names) == 80 and (names[0], names[79]) == ("person", "toothbrush")
    assert {config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST} == {800, 1333}


def test_the_page_lists_every_model_that_exists_and_no_other():
    names = [row[0] for row in ROWS if "_" in row[0]]
    assert len(names) == len(MODELS), "a model stands there twice"
    assert set(names) == set(ZOO) | {f"fcos_{name}" for name in HRNET_FCOS}
    for name, model in ZOO.items():
        row = MODELS[name]
        assert row[-1] == f"[{Path(model.url).name}]({model.url})"
        if model.ap is not None:
            assert row[:2] == [f"[yaml](../configs/zoo/{model.conventions}.yaml)", f"{model.ap:.1f}"]
    for name, ap in HRNET_FCOS.items():
        shown = "" if ap is None else f"{ap:.1f}"
        assert MODELS[f"fcos_{name}"][:2] == [f"[yaml](../configs/fcos/fcos_{name}.yaml)", shown]


def test_every_file_that_the_page_links_to_exists():
    linked = re.findall(r"\]\((\.\./[^)]+)\)", PAGE)
    assert len(linked) > len(HRNET_FCOS)
    assert not [path for path in linked if not (ROOT / "docs" / path).exists()]


def test_published_parameters_of_hrnet_fcos():
    # From the table of the README.
    published = {"R_50_5l_2x": "32,244,250", "hrnet_w18_6l_2x": "18,092,783", "hrnet_w40_6l_3x": "54,136,219"}
    assert {name: MODELS[f"fcos_{name}"][2] for name in published} == published
