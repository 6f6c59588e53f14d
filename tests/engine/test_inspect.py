"""Inspection of a dataset: problems, levels, proposal, and a config that runs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_core.commands.inspect import main
from fcos_core.config import cfg
from fcos_core.data.formats.convert import convert
from fcos_core.engine.inspect_data import find_copies, inspect_split, propose, share_levels
from fcos_core.engine.inspect_report import base_for, describe_boxes, draw_sheet
from fcos_core.engine.program import config_parser, make_config
from fcos_core.engine.train import train
from fcos_core.errors import InputError
from fcos_core.visualize.detections import colour_of

SIDE = 64


def smooth_image(seed, size=(SIDE, SIDE)):
    """Make an image with large shapes, as photographs have; noise would not survive compression."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


class Data:
    """Two COCO files with images beside them; tests change what is written."""

    def __init__(self, folder):
        self.folder = folder
        self.sets = {name: {"images": [], "annotations": []} for name in ("train", "val")}
        self.categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        for number in range(4):
            self.add("train", f"t{number}.png", smooth_image(number), [(1 + number % 2, [8, 8, 32, 24])])
        for number in range(2):
            self.add("val", f"v{number}.png", smooth_image(10 + number), [(1, [8, 8, 32, 24])])

    def add(self, name, file, image, boxes=()):
        if image is not None:
            image.save(self.folder / file)
        entries, width, height = self.sets[name], *(image.size if image else (SIDE, SIDE))
        image_id = len(entries["images"]) + 1
        entries["images"].append({"id": image_id, "file_name": file, "width": width, "height": height})
        for category, box in boxes:
            ids = {"id": len(entries["annotations"]) + 1, "image_id": image_id, "category_id": category}
            entries["annotations"].append({**ids, "bbox": box})

    def config(self, base):
        for name, entries in self.sets.items():
            path = self.folder / f"{name}.json"
            path.write_text(json.dumps({**entries, "categories": self.categories}))
            base.merge_from_list([f"DATASETS.CATALOG.{name}.img_dir", str(self.folder)])
            base.merge_from_list([f"DATASETS.CATALOG.{name}.ann_file", str(path)])
        sizes = {"MIN_SIZE_TRAIN": (SIDE,), "MAX_SIZE_TRAIN": SIDE, "MIN_SIZE_TEST": SIDE, "MAX_SIZE_TEST": SIDE}
        base.merge_from_list([word for key, size in sizes.items() for word in (f"INPUT.{key}", size)])
        base.merge_from_list(["DATASETS.TRAIN", ("train",), "DATASETS.TEST", ("val",), "DATALOADER.NUM_WORKERS", 0])
        base.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 0, "SOLVER.MAX_ITER", 0, "SOLVER.STEPS", ()])
        return base

    def inspect(self, base, *names):
        config = self.config(base)
        return [inspect_split(config, name) for name in names or ("train", "val")]


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


@pytest.fixture
def config(small_config):
    return small_config.clone()


def test_a_sound_dataset_has_no_problems(data, config):
    splits = data.inspect(config)
    assert not splits[0].problems and list(splits[1].problems) == ["classes without a box"]
    assert not find_copies(splits)


def test_images_that_cannot_be_used(data, config):
    data.add("train", "half.png", smooth_image(5), [(1, [1, 1, 30, 30])])
    path = data.folder / "half.png"
    path.write_bytes(path.read_bytes()[:500])
    data.add("train", "gone.png", None, [(1, [1, 1, 30, 30])])
    data.add("train", "large.png", smooth_image(6), [(1, [1, 1, 30, 30])])
    smooth_image(6, (70, SIDE)).save(data.folder / "large.png")
    (split,) = data.inspect(config, "train")
    unreadable, other_size = split.problems.values()
    assert (
        split.unreadable
        and [name in text for name, text in zip(("half", "gone"), unreadable, strict=True)] == [True] * 2
    )
    assert other_size == [f"{data.folder}/large.png has 70x64 pixels, its annotation says 64x64"]
    assert [facts is None for facts in split.facts] == [False] * 4 + [True] * 3


def test_boxes_that_cannot_be_learned(data, config):
    boxes = [(1, [5, 5, 1, 20]), (1, [70, 5, 9, 9]), (1, [50, 5, 30, 9]), (2, [1, 1, 9, 9]), (2, [1, 1, 9, 9])]
    data.add("train", "bad.png", smooth_image(5), boxes)
    (split,) = data.inspect(config, "train")
    assert {kind.split(" (")[0]: len(cases) for kind, cases in split.problems.items()} == {
        "boxes that are there twice": 1,
        "boxes that are at most 1 pixel wide or high": 1,
        "boxes that lie outside their image": 1,
        "boxes that pass the edge of their image": 1,
    }
    outside = split.problems[
        "boxes that lie outside their image (they are left out of training, but metrics count them)"
    ]
    assert outside == [f"annotation 6 of {data.folder}/bad.png (64x64), bbox [70, 5, 9, 9]"]


def test_classes_that_are_alike_or_empty(data, config):
    data.categories += [{"id": 3, "name": "Cat"}, {"id": 4, "name": "cow"}]
    (split,) = data.inspect(config, "train")
    assert split.problems == {
        "classes without a box": ["'Cat'", "'cow'"],
        "classes that differ in case, spaces or hyphens alone": ["'cat' and 'Cat'"],
    }


def test_copies_within_and_between_splits(data, config):
    data.add("train", "again.png", None, [(1, [1, 1, 30, 30])])
    (data.folder / "again.png").write_bytes((data.folder / "t0.png").read_bytes())
    data.add("val", "copy.png", smooth_image(1))
    data.add("val", "t2.png", smooth_image(2))
    data.add("val", "pressed.jpg", smooth_image(3, (48, 48)))
    data.add("val", "flat.png", Image.new("RGB", (SIDE, SIDE)))
    data.add("train", "flat2.png", Image.new("RGB", (SIDE, SIDE), "white"))
    folder = data.folder
    assert find_copies(data.inspect(config)) == {
        "train: copies of images in train": [f"{folder}/again.png of {folder}/t0.png"],
        "val: copies of images in train": [f"{folder}/copy.png of {folder}/t1.png"],
        "val: images that are in train too": [f"{folder}/t2.png"],
        "val: images that look like others in train": [f"{folder}/pressed.jpg and {folder}/t3.png"],
    }


def test_levels_are_those_of_a_training(data, config):
    """A box of 33x33 pixels from (8, 8): at stride 8, 4 + 8 x lies in it for x in 1..4, and so for y.

    The largest distance to a side is at least 16 and below 33, so the range to 32 takes them all; 16 + 32 x lies in
    the second box, of 12x12 from (10, 10), for stride 32 only, whose range begins at 128: no location.
    """
    data.sets["train"] = {"images": [], "annotations": []}
    data.add("train", "one.png", smooth_image(1), [(1, [8, 8, 33, 33]), (2, [5, 5, 5, 5])])
    (split,) = data.inspect(config, "train")
    config.MODEL.FCOS.TARGET_ASSIGN = [[-1, 32], [32, 64], [64, 128], [128, 256], [256, 100000000]]
    levels = share_levels(config, split)
    # 5 + 4 = 9 is the last pixel of the second box, and 4 and 12 are the nearest locations.
    assert (levels.boxes, levels.counts, levels.without) == (2, (1, 0, 0, 0, 0), 1)


def test_the_proposal_follows_the_boxes(data, config):
    """Boxes of 32x24: 27.7 pixels. 32 / 27.7 = 1.155 of 64 pixels is 74, and 64 is the nearest multiple of 32."""
    proposal = propose(config, data.inspect(config, "train")[0])
    assert (proposal.min_size, proposal.max_size) == (64, 64)
    # Two thirds of 32 are 21: the power of two is 16, but four strides are 32.
    assert proposal.keys == {"MODEL.FCOS.TARGET_ASSIGN": [[-1, 32], [32, 64], [64, 128], [128, 256], [256, 100000000]]}


def test_tiny_boxes_get_a_finer_level(data, config):
    data.sets["train"] = {"images": [], "annotations": []}
    data.add("train", "large.png", smooth_image(1, (640, 400)), [(1, [10 * i, 10, 6, 6]) for i in range(1, 9)])
    (split,) = data.inspect(config, "train")
    proposal = propose(config, split)
    assert (proposal.min_size, proposal.max_size) == (800, 1280)  # twice the image; 32 / 6 would be too much
    assert proposal.keys["MODEL.FCOS.FPN_STRIDES"] == [4, 8, 16, 32, 64]
    assert proposal.keys["MODEL.HRNET.FPN.CONV_STRIDE"] == 1
    assert proposal.keys["MODEL.FCOS.TARGET_ASSIGN"][:2] == [[-1, 16], [16, 32]]
    config.MODEL.WEIGHT = "zoo://mmdet_fcos_hrnetv2p_w18"
    assert propose(config, split).keys == {}
    config.MODEL.WEIGHT = "zoo://timm_hrnet_w18.ms_in1k"
    assert propose(config, split).keys == proposal.keys


def test_pretrained_weights_keep_their_size(data, config):
    (split,) = data.inspect(config, "train")
    config.merge_from_list(["MODEL.WEIGHT", "zoo://timm_hrnet_w18.ms_in1k", "INPUT.MIN_SIZE_TEST", 640])
    proposal = propose(config, split)
    assert (proposal.min_size, proposal.max_size) == (640, 640)
    # Boxes are 320 pixels long there; more than eight strides are never proposed.
    assert proposal.keys["MODEL.FCOS.TARGET_ASSIGN"][0] == [-1, 64]


def test_the_boxes_are_described(data, config):
    lines = list(describe_boxes(data.inspect(config, "train")[0], 2.0))
    assert lines[2] == "in photographs  " + "      28" * 7  # the square root of 32 * 24 is 27.7
    assert lines[3] == "in the network  " + "      55" * 7
    assert lines[4] == "width / height  " + "    1.33" * 7
    assert lines[-1] == f"   45 -   64 {'#' * 40} 4"


def test_the_contact_sheet_shows_boxes_in_the_colour_of_their_class(data, config):
    sheet = np.asarray(draw_sheet(data.inspect(config, "train")[0]))
    assert sheet.shape == (2 * 458 + 8, 3 * 608 + 8, 3)
    # The first image, enlarged to 450 pixels, is in the middle of its cell; its box begins at 8 / 64 of the image.
    left, top = 8 + (600 - 450) // 2 + 8 * 450 // 64, 8 + 8 * 450 // 64
    assert tuple(sheet[top + 40, left]) == tuple(bytes.fromhex(colour_of(1)[1:]))


def test_a_dataset_without_readable_boxes_has_no_sheet(data, config):
    for path in data.folder.glob("t*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"has no image with a box that can be used, such as: .*t0"):
        draw_sheet(data.inspect(config, "train")[0])


@pytest.fixture
def base(data, config, tmp_path, monkeypatch):
    """Write a base config, and stand in the folder of the data."""
    monkeypatch.chdir(tmp_path)
    made = data.config(config)
    made.merge_from_list(["SOLVER.IMS_PER_BATCH", 2, "DATASETS.TRAIN", (), "DATASETS.TEST", ()])
    (tmp_path / "base.yaml").write_text(made.dump())
    return tmp_path / "base.yaml"


def test_the_written_config_trains_as_it_is(data, base, capsys, tmp_path):
    (tmp_path / "t3.png").write_bytes((tmp_path / "t3.png").read_bytes()[:200])
    words = ["--train", "train.json", "--val", "val.json", "--images", ".", "--base", "base.yaml"]
    main([*words, "--write", "own.yaml"])
    shown = capsys.readouterr().out
    assert shown.endswith("Wrote own.yaml\nWrote inspection/contact_sheet.jpg\n")
    text = (tmp_path / "own.yaml").read_text()
    assert text in shown and text.startswith(
        "# Proposed for the 4 images of train; 0 classes: as they are listed there.\n_BASE_: base.yaml\n"
    )
    arguments = config_parser("").parse_args(["--config-file", "own.yaml", "SOLVER.ITER_FACTOR", "0.005"])
    made = make_config(arguments, is_train=True)
    # 0.005 * 200 * 4^0.75 / 2 = 1.4; the damaged image is known when it is read only.
    assert (made.MODEL.FCOS.NUM_CLASSES, made.SOLVER.MAX_ITER, made.DATALOADER.SKIP_UNREADABLE) == (3, 1, True)
    assert made.DATASETS.TRAIN == ("train",) and made.DATASETS.TEST == ("val",)
    train(made, {})
    content = torch.load(tmp_path / "training_dir" / "train" / "model_final.pth", weights_only=True)
    assert content["categories"] == ["cat", "dog"]
    with pytest.raises(InputError, match=r"'own\.yaml' exists already"):
        main([*words, "--write", "own.yaml"])


def test_the_config_of_a_detector_to_fine_tune_is_yaml_too(data, base, tmp_path, capsys):
    weight = "MODEL:\n  WEIGHT: zoo://mmdet_fcos_hrnetv2p_w18\n"
    (tmp_path / "tuned.yaml").write_text(f"_BASE_: base.yaml\n{weight}")
    main(["--train", "train.json", "--base", "tuned.yaml", "--write", "own.yaml"])
    made = cfg.clone()
    made.merge_from_file("own.yaml")
    assert (made.MODEL.FCOS.NUM_CLASSES, made.DATASETS.TRAIN, made.DATASETS.TEST) == (0, ("train",), ())
    assert made.MODEL.FCOS.TARGET_ASSIGN == cfg.MODEL.FCOS.TARGET_ASSIGN


def test_a_converted_folder_is_inspected(tmp_path, base, data, capsys):
    rows = [f"t{number}.png,8,8,40,32,cat" for number in range(4)]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    convert(tmp_path / "boxes.csv", tmp_path / "made", split=[0.5, 0.25, 0.25])
    main(["made", "--base", "base.yaml"])
    shown = capsys.readouterr().out
    for name, images in (("train", 2), ("val", 1), ("test", 1)):
        assert f"made_{name}: {images} images (64x64), 0 without boxes; {images} boxes" in shown
    assert "  TRAIN: [made_train]\n  TEST: [made_val]\n" in shown


def test_a_config_is_inspected_at_its_own_sizes(data, base, capsys, config, tmp_path):
    whole = data.config(config.clone())
    whole.merge_from_list(["DATASETS.TRAIN", ("train", "val"), "DATASETS.TEST", ("val",)])
    (tmp_path / "whole.yaml").write_text(whole.dump())
    main(["--config-file", "whole.yaml"])
    shown = capsys.readouterr().out
    assert shown.index("As the config is:") < shown.index("As proposed:")
    assert "\n_BASE_: whole.yaml\n" in shown and f"OUTPUT_DIR: {whole.OUTPUT_DIR}_proposed\n" in shown
    assert "  TRAIN: [train, val]\n  TEST: [val]\n" in shown


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "name one of DATA, --images DIR --train FILE, and --config-file FILE"),
        (["made", "--train", "x"], "name one of"),
    ],
)
def test_the_command_needs_one_source(words, fault, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert fault in capsys.readouterr().err


def test_two_folders_of_files_of_one_name(data, base, tmp_path, capsys):
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_a.coco.json").write_text((tmp_path / f"{name}.json").read_text())
        for entry in data.sets[name]["images"]:
            (tmp_path / entry["file_name"]).rename(tmp_path / name / entry["file_name"])
    main(["--train", "train/_a.coco.json", "--val", "val/_a.coco.json", "--base", "base.yaml"])
    shown = capsys.readouterr().out
    assert "  TRAIN: [train__a_coco]\n  TEST: [val__a_coco]\n" in shown and "cannot be read" not in shown
    with pytest.raises(InputError, match="--images names 3 folders for 1 files"):
        main(["--train", "train/_a.coco.json", "--images", "a", "b", "c", "--base", "base.yaml"])


def test_a_folder_that_was_not_converted(base):
    with pytest.raises(InputError, match=r"'images' has no datasets\.yaml: convert the dataset first"):
        main(["images", "--base", "base.yaml"])


def test_the_base_is_named_as_the_written_file_finds_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert base_for("configs/own/scratch_small.yaml", None) == "configs/own/scratch_small.yaml"
    (tmp_path / "b.yaml").write_text("SEED: 1\n")
    assert base_for("b.yaml", tmp_path / "deep" / "own.yaml") == "../b.yaml"
    assert cfg.SEED == 0
