"""YAML files: doubled keys, bases, other detectors, hostile files."""

import os

import pytest

from fcos_core.config import cfg
from fcos_core.errors import InputError


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write files by name, and merge the one that is called main.yaml."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def merge(main, **others):
        for name, text in {"main": main, **others}.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        config = cfg.clone()
        config.merge_from_file(str(tmp_path / "main.yaml"))
        return config

    return merge


def test_the_package_brings_its_configs_with_it(read, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    config = cfg.clone()
    config.merge_from_file("configs/demo/shapes.yaml")
    assert config.OUTPUT_DIR == "demo/shapes"
    config = read("_BASE_: configs/zoo/mmdet_fcos_hrnetv2p_w32.yaml\nSEED: 5\n")
    assert (config.MODEL.BACKBONE.CONV_BODY, config.SEED) == ("HRNET-W32", 5)
    # A file of the user goes first.
    config = read("_BASE_: configs/demo/shapes.yaml\n", configs__demo__shapes="SEED: 6\n")
    assert (config.SEED, config.OUTPUT_DIR) == (6, cfg.OUTPUT_DIR)
    with pytest.raises(InputError, match=r"'configs/demo/shape\.yaml' does not exist"):
        config.merge_from_file("configs/demo/shape.yaml")


@pytest.mark.parametrize(
    ("text", "key", "second", "first"),
    [
        ("MODEL:\n  WEIGHT: a\nSEED: 1\nMODEL:\n  DEVICE: cpu\n", "MODEL", 4, 1),
        ("MODEL:\n  FCOS:\n    NUM_CLASSES: 3\n  FCOS:\n    NUM_CONVS: 2\n", "MODEL.FCOS", 4, 2),
        ("MODEL: {FCOS: {NUM_CONVS: 1,\n NUM_CONVS: 2}}\n", "MODEL.FCOS.NUM_CONVS", 2, 1),
        ("DATASETS:\n  CATALOG:\n    a: {img_dir: x}\n    a: {ann_file: y}\n", "DATASETS.CATALOG.a", 4, 3),
        ("SEED: 1\n'SEED': 2\n", "SEED", 2, 1),
        ("SOLVER.MAX_ITER: 3\nSOLVER:\n  MAX_ITER: 4\n", "SOLVER.MAX_ITER", 3, 1),
        ("_BASE_: a.yaml\n_BASE_: b.yaml\n", "_BASE_", 2, 1),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(read, text, key, second, first):
    with pytest.raises(
        InputError, match=rf"^line {second} of .*main.yaml: '{key}' .* second time, after line {first} "
    ):
        read(text)


def test_merge_keys_are_no_doubled_keys(read):
    catalog = read(
        "DATASETS:\n  CATALOG:\n    a: &a {img_dir: x, ann_file: y}\n    b: {<<: *a, ann_file: z}\n"
    ).DATASETS.CATALOG
    assert (catalog.a.ann_file, catalog.b.img_dir, catalog.b.ann_file) == ("y", "x", "z")


def test_bases_are_relative_to_the_file_that_names_them_and_the_nearest_file_wins(read):
    config = read(
        "_BASE_: configs/middle.yaml\nSOLVER:\n  MAX_ITER: 1\n",
        configs__middle='_BASE_: "../common/root.yaml"\nSOLVER:\n  MAX_ITER: 2\n  BASE_LR: 0.2\n',
        common__root="SOLVER:\n  MAX_ITER: 3\n  BASE_LR: 0.3\n  STEPS: (7,)\n  GAMMA: 0.3\n",
    )
    assert (config.SOLVER.MAX_ITER, config.SOLVER.BASE_LR, config.SOLVER.STEPS) == (1, 0.2, (7,))
    assert config.SOLVER.GAMMA == 0.3


def test_of_several_bases_the_last_wins_and_two_may_share_one(read):
    config = read(
        "_BASE_: [a.yaml, b.yaml]\n",
        a="_BASE_: root.yaml\nSEED: 1\nSOLVER:\n  MAX_ITER: 1\n",
        b="_BASE_: root.yaml\nSEED: 2\n",
        root="SOLVER:\n  MAX_ITER: 3\n  STEPS: [5]\n",
    )
    # b.yaml has the keys of root.yaml too, and comes after a.yaml.
    assert (config.SEED, config.SOLVER.MAX_ITER, config.SOLVER.STEPS) == (2, 3, (5,))


def test_a_base_in_the_home_folder_and_by_its_full_path(read, tmp_path):
    assert read("_BASE_: ~/own.yaml\n", home__own="SEED: 5\n").SEED == 5
    assert read(f"_BASE_: {tmp_path}/home/own.yaml\n").SEED == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "_BASE_: main.yaml\n",
            "line 1 of .*main.yaml: the _BASE_ '.*' leads back to itself: .*main.yaml -> .*main.yaml",
        ),
        ("_BASE_: other.yaml\n", "line 1 of .*other.yaml: .*main.yaml -> .*other.yaml -> .*main.yaml"),
        (
            "SEED: 1\n_BASE_: gone.yaml\n",
            r"line 2 of .*main.yaml: the _BASE_ '.*gone.yaml' does not exist \(looked at /",
        ),
        ("_BASE_: .\n", "the _BASE_ .* is not a file"),
        ("_BASE_:\n", "line 1 of .*main.yaml: _BASE_ takes the path"),
        ("_BASE_: [[main.yaml]]\n", "_BASE_ takes the path"),
        ("_BASE_: bad.yaml\n", "line 2 of .*bad.yaml: unknown config key 'SOLVER.ITERS'"),
        ("_BASE_: broken.yaml\n", "_BASE_ '.*broken.yaml' is not valid YAML"),
        ("MODEL:\n  _BASE_: other.yaml\n", "unknown config key 'MODEL._BASE_'"),
    ],
)
def test_bases_that_cannot_be_read(read, text, message):
    others = {"other": "_BASE_: main.yaml\n", "bad": "SOLVER:\n  ITERS: 3\n", "broken": "MODEL: [\n"}
    with pytest.raises(InputError, match=message):
        read(text, **others)


@pytest.mark.parametrize(
    "text",
    [
        "MODEL:\n  RPN:\n    PRE_NMS_TOP_N_TEST: 6000\n",
        "SOLVER:\n  UNKNOWN: 1\nMODEL:\n  ROI_HEADS:\n    USE_FPN: True\n",
        "MODEL:\n  RPN_ONLY: True\n  RETINANET:\n    SCALES_PER_OCTAVE: 3\n",
        "MODEL:\n  MASK_ON: True\n  ROI_MASK_HEAD:\n    CONV_LAYERS: (256, 256)\n",
        "MODEL:\n  ROI_BOX_HEAD:\n",
    ],
)
def test_a_file_of_another_detector_is_refused_as_one(read, text):
    with pytest.raises(
        InputError, match=r"^line \d of .*: 'MODEL\..*' belongs to another detector .* only FCOS is built"
    ):
        read(text)


NESTED = "is nested too deeply"
REPEATED = "more than 20000 values"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# only words\n", "is empty"),
        ("- a\n", "must hold sections such as MODEL:, not a list"),
        ("12", "must hold sections such as MODEL:, not '12'"),
        ("SEED: 1\n---\nSEED: 2\n", "not valid YAML: .*another document"),
        ("SOLVER:\n\tSEED: 1\n", r"line 2, column 1\); indent with spaces, not with tabs"),
        ("OUTPUT_DIR: Café\n".encode("latin-1"), "not text in UTF-8"),
        ("SEED: 1\n".encode("utf-16-le"), "not text in UTF-8"),
        (b"\x80\x02}q\x00.", "not text in UTF-8"),
        (b"\x00" * 50, "not text in UTF-8"),
        ("? [a, b]\n: 1\n", "line 1 of .*: a key must be a name, such as MODEL, not a list"),
        ("1: 2\n", "unknown config key '1'"),
        ("SEED: !!python/object/apply:os.system [ls]\n", "'SEED' has the tag '.*os.system'"),
        ("MODEL:\n  WEIGHT: !ref x\n", "line 2 of .*: 'MODEL.WEIGHT' has the tag '!ref'"),
        ("DATASETS:\n  TRAIN: [{a: 1}]\n", "line 2 of .*: 'DATASETS.TRAIN' has a section in a list"),
        ("MODEL: *nothing\n", "undefined alias"),
        ("MODEL: &a\n  <<: *a\n", NESTED),
        ("SEED: &a [*a]\n", NESTED),
        ("[" * 1200, NESTED),
        ("{a: " * 1200, NESTED),
        ("a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}]\n" for i in range(30)), REPEATED),
        ("a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{b: *a{i}, c: *a{i}}}\n" for i in range(30)), REPEATED),
        ("a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(30)), REPEATED),
        ("x" * 2**21, "longer than 1048576 bytes"),
        ('"MO\\e[31mDEL\\n": 1\n', r"unknown config key 'MO\\x1b\[31mDEL\\n'"),
    ],
    ids=range(25),
)
def test_files_that_are_no_config_get_one_line(read, text, message):
    with pytest.raises(InputError, match=message) as error:
        read(text)
    assert len(str(error.value).splitlines()) == 1 and str(error.value).isprintable()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows_editors_are_read(read, encoding):
    assert read("SEED: 3\r\nOUTPUT_DIR: Café\r\n".encode(encoding)).OUTPUT_DIR == "Café"


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(InputError, match=f"'{path}' is not a file"):
            cfg.clone().merge_from_file(str(path))
