"""What texts of YAML files and command lines mean for keys of each type."""

import pickle

import pytest
import yaml
from yacs.config import CfgNode

from fcos_core.config import cfg
from fcos_core.config.paths_catalog import dataset_paths
from fcos_core.errors import InputError


def get(config, key):
    for name in key.split("."):
        config = config[name]
    return config


def from_yaml(tmp_path, key, text):
    *sections, name = key.split(".")
    path = tmp_path / "some.yaml"
    path.write_text(
        "".join(f"{'  ' * i}{section}:\n" for i, section in enumerate([*sections, name])).rstrip() + f" {text}\n"
    )
    config = cfg.clone()
    config.merge_from_file(str(path))
    return get(config, key)


def from_words(key, text):
    config = cfg.clone()
    config.merge_from_list([key, text])
    return get(config, key)


# Without quotes, YAML 1.1 reads some of these as texts, times, dates, or numbers of other bases.
MEANINGS = [
    ("SOLVER.MAX_ITER", "6e4", 60000),
    ("SOLVER.MAX_ITER", "9e4", 90000),
    ("SOLVER.MAX_ITER", "1_000", 1000),
    ("SOLVER.MAX_ITER", "0o17", 15),
    ("SOLVER.MAX_ITER", "0x1F", 31),
    ("SOLVER.MAX_ITER", "+1", 1),
    ("SOLVER.MAX_ITER", "90000.0", 90000),
    ("SOLVER.BASE_LR", "1e-3", 0.001),
    ("SOLVER.BASE_LR", ".5", 0.5),
    ("SOLVER.BASE_LR", "+1", 1.0),
    ("SOLVER.BASE_LR", "1.e-2", 0.01),
    ("SOLVER.STEPS", "[6e4, 8e4]", (60000, 80000)),
    ("SOLVER.STEPS", "(6e4, 8e4)", (60000, 80000)),
    ("SOLVER.STEPS", "60000, 80000", (60000, 80000)),
    ("INPUT.PIXEL_MEAN", "[1e2, 100, .5]", [100.0, 100.0, 0.5]),
    ("MODEL.FCOS.TARGET_ASSIGN", "[[-1, 6.4e1], [64, 1e8]]", [[-1, 64.0], [64, 1e8]]),
    ("MODEL.SYNCBN", "on", True),
    ("MODEL.SYNCBN", "No", False),
    ("MODEL.SYNCBN", "true", True),
    ("OUTPUT_DIR", "1e8", "1e8"),
    ("OUTPUT_DIR", "010", "010"),
    ("OUTPUT_DIR", "1_000", "1_000"),
    ("OUTPUT_DIR", "2024-01-31", "2024-01-31"),
    ("OUTPUT_DIR", "12:30", "12:30"),
    ("OUTPUT_DIR", "on", "on"),
    ("DATASETS.TRAIN", "['a', \"b\"]", ("a", "b")),
]


@pytest.mark.parametrize(("key", "text", "value"), MEANINGS)
def test_texts_mean_what_the_type_of_the_key_makes_of_them(tmp_path, key, text, value):
    for found in (from_yaml(tmp_path, key, text), from_words(key, text)):
        assert found == value and repr(found) == repr(value)


def test_names_in_lists_stay_texts(tmp_path):
    assert from_yaml(tmp_path, "DATASETS.TRAIN", "[no, 2024-01-31, 007, 1e8]") == ("no", "2024-01-31", "007", "1e8")
    assert from_yaml(tmp_path, "MODEL.RESNETS.STAGE_WITH_DCN", "[off, no, False, false]") == (False,) * 4
    catalog = from_yaml(tmp_path, "DATASETS.CATALOG", "{2007: {img_dir: 007, ann_file: 1:30}, on: {img_dir: yes}}")
    assert catalog == {"2007": {"img_dir": "007", "ann_file": "1:30"}, "on": {"img_dir": "yes"}}


HUGE = ["9" * 5000, "0x" + "f" * 5000, "(" * 3000, "-" * 50_000 + "1", "1+" * 20_000 + "1", "[" * 200 + "]" * 200]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(
            ("SOLVER.MAX_ITER", text)
            for text in ["010", "1:30", "1e-3", "on", "2024-01-31", "1e30", "''", "nan", *HUGE]
        ),
        *(("SOLVER.BASE_LR", text) for text in ["010", "1:30", "fast", "1,5", *HUGE]),
        *(
            ("SOLVER.STEPS", text)
            for text in ["[1e-3]", "[1:30]", "[010]", "[~]", "(0xffffffffffffffffffff,)", *HUGE[1:5]]
        ),
        *(("MODEL.SYNCBN", text) for text in ["1", "y", "maybe", *HUGE]),
        *(("DATASETS.TRAIN", text) for text in ["coco", "[[a]]", "(0x" + "f" * 5000 + ",)"]),
        *(("MODEL.FCOS.TARGET_ASSIGN", text) for text in ["[[~]]", "{1: 2}", *HUGE[1:5]]),
    ],
    ids=lambda value: value[:20],
)
def test_other_texts_are_refused_with_key_and_line(tmp_path, key, text):
    line = key.count(".") + 1
    with pytest.raises(InputError, match=f"^line {line} of .*some.yaml: .*{key}.*") as error:
        from_yaml(tmp_path, key, text)
    with pytest.raises(InputError, match=f"^command line: '{key}' takes "):
        from_words(key, text)
    assert len(str(error.value)) < 500 and str(error.value).isprintable()


@pytest.mark.parametrize("text", ["", "~", "null", "None"])
def test_an_empty_value_is_no_weights_and_no_list_and_otherwise_an_error(tmp_path, text):
    assert from_yaml(tmp_path, "MODEL.WEIGHT", text) == ""
    assert from_yaml(tmp_path, "TEST.BEST_METRIC", text) == ""
    assert from_yaml(tmp_path, "DATASETS.TEST", text) == ()
    assert from_yaml(tmp_path, "MODEL.FCOS.TARGET_ASSIGN", text) == []
    for key in ("SOLVER.MAX_ITER", "SOLVER.BASE_LR", "MODEL.SYNCBN", "OUTPUT_DIR", "DATASETS.CATALOG.a.img_dir"):
        with pytest.raises(InputError, match=f"'{key}' is empty .* leave the key out"):
            from_yaml(tmp_path, key, text)


PATHS = ["OUTPUT_DIR", "MODEL.WEIGHT", "DATASETS.DATA_DIR", "DATASETS.CATALOG.a.img_dir", "DATASETS.CATALOG.a.ann_file"]


@pytest.mark.parametrize("key", PATHS)
def test_the_home_folder_is_known_however_a_path_is_set(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", "/home/me")
    assert from_yaml(tmp_path, key, "~/x") == from_words(key, "~/x") == "/home/me/x"
    config = cfg.clone()
    config.merge_from_list([key, "x"])
    *sections, name = key.split(".")
    node = get(config, ".".join(sections)) if sections else config
    setattr(node, name, "~/x")
    copies = (config, config.clone(), pickle.loads(pickle.dumps(config)))
    assert [get(copy, key) for copy in copies] == ["/home/me/x"] * 3


def test_the_home_folder_in_plain_dictionaries_and_in_the_name_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    own = {"mine": {"img_dir": "~/images", "ann_file": "~/a.json"}}
    assert dataset_paths("mine", "data", own) == (f"{tmp_path}/images", f"{tmp_path}/a.json")
    (tmp_path / "own.yaml").write_text("SEED: 3\n")
    config = cfg.clone()
    config.merge_from_file("~/own.yaml")
    assert config.SEED == 3


def test_a_dumped_config_is_read_back(tmp_path):
    config = cfg.clone()
    words = [
        "OUTPUT_DIR",
        "1e8",
        "DATASETS.TRAIN",
        "['007', 'on', '1:30']",
        "SOLVER.BASE_LR",
        "1e-5",
        "MODEL.SYNCBN",
        "on",
    ]
    config.merge_from_list([*words, "DATASETS.CATALOG.2007.img_dir", "~", "MODEL.WEIGHT", "it's: here # not"])
    (tmp_path / "dumped.yaml").write_text(config.dump())
    assert yaml.safe_load(config.dump())["SOLVER"]["BASE_LR"] == 1e-5
    again = cfg.clone()
    again.merge_from_file(str(tmp_path / "dumped.yaml"))
    assert again == config and again.dump() == config.dump()


def test_idioms_of_yacs(tmp_path):
    (tmp_path / "some.yaml").write_text(
        "SOLVER:\n  STEPS: (1, 2)\nDATASETS:\n  CATALOG:\n    a: {img_dir: x, ann_file: y}\n"
    )
    config = cfg.clone()
    config.freeze()
    with pytest.raises(AttributeError):
        config.merge_from_file(str(tmp_path / "some.yaml"))
    with pytest.raises(AttributeError):
        config.SEED = 3
    config.defrost()
    with open(tmp_path / "some.yaml") as file:
        config.merge_from_other_cfg(CfgNode.load_cfg(file))
    assert config.SOLVER.STEPS == (1, 2) and config.DATASETS.CATALOG.a.ann_file == "y"
    config.OWN = CfgNode()
    config.OWN.KEY = 1
    config.merge_from_list(["OWN.KEY", "2"])
    assert config.OWN.KEY == 2 and "KEY: 2" in config.dump()
    config.set_new_allowed(True)
    config.merge_from_list(["NEW.NUMBER", "1e3", "NEW.NAME", "x"])
    assert (config.NEW.NUMBER, config.NEW.NAME) == (1000.0, "x")
