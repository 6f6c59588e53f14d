"""The real commands answer bad input with one sentence, without a traceback, before any work."""

import json

import pytest
import torch

from fcos_core.config import cfg
from fcos_core.modeling.detector import build_detection_model


def assert_sentence(result, *parts):
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1, result.stderr
    assert last.startswith("error: "), result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in last


def set_key(tree, key, value):
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def test_missing_config(workspace):
    (workspace.folder / "tiny.yaml").unlink()
    assert_sentence(workspace.run("train_net.py"), "tiny.yaml", "does not exist")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["SOLVER.MAX_ITERS", "3"], ["SOLVER.MAX_ITERS", "nearest known key is 'SOLVER.MAX_ITER'"]),
        (["SOLVER.MAX_ITER", "many"], ["SOLVER.MAX_ITER", "takes an integer", "'many'"]),
        (["SOLVER.MAX_ITER"], ["KEY VALUE"]),
        (["SOLVER.MAX_ITER", "-5"], ["SOLVER.MAX_ITER is -5", "1 or more"]),
        (["DATASETS.TRAIN", "('nowhere',)"], ["Unknown dataset 'nowhere'"]),
        (["DATASETS.TEST", "('nowhere',)"], ["Unknown dataset 'nowhere'"]),
        (["SOLVER.CHECKPOINT_PERIOD", "0"], ["CHECKPOINT_PERIOD", "1 or more"]),
        (["DATASETS.DATA_DIR", "/nowhere"], ["/nowhere/", "does not exist"]),
        (["MODEL.FCOS.NUM_CLASSES", "81"], ["has 2 categories", "write 3"]),
        (["DATALOADER.SIZE_DIVISIBILITY", "16"], ["SIZE_DIVISIBILITY", "32 is the least"]),
        (["OUTPUT_DIR", "/proc/nowhere"], ["OUTPUT_DIR", "/proc/nowhere", "cannot be written"]),
        (["MODEL.WEIGHT", "nowhere.pth"], ["nowhere.pth"]),
        (["MODEL.BACKBONE.CONV_BODY", "HRNETS-W32"], ["CONV_BODY", "nearest known name is 'HRNET-W32'"]),
        (["MODEL.DEVICE", "cuda"], ["no CUDA device", "MODEL.DEVICE cpu"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_bad_keys_and_values(workspace, words, parts):
    assert_sentence(workspace.run("train_net.py", *words), *parts)
    assert not list(workspace.folder.glob("out/*.pth"))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["TEST.PRECISION", "fp16", "TEST.COMPILE", "True"], ["TEST.PRECISION is 'fp16'", "bfloat16"]),
        (["TEST.PRECISION", "bfloat16"], ["TEST.PRECISION is 'bfloat16'", "set TEST.COMPILE True"]),
    ],
    ids=["unknown", "not compiled"],
)
def test_bad_keys_of_testing(workspace, words, parts):
    assert_sentence(workspace.run("test_net.py", *words, "MODEL.WEIGHT", "not_looked_at.pth"), *parts)


def without(key):
    return lambda dataset: dataset.pop(key)


def change(section, index, key, value):
    return lambda dataset: dataset[section][index].__setitem__(key, value)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (without("images"), ["tiny.json", "images"]),
        (change("annotations", 2, "image_id", 77), ["tiny.json", "annotation 3", "77"]),
        (change("annotations", 2, "category_id", 9), ["tiny.json", "annotation 3", "9"]),
        (change("annotations", 2, "bbox", [1, 2, float("nan"), 4]), ["tiny.json", "annotation 3"]),
        (change("annotations", 2, "bbox", [1, 2, -3, 4]), ["tiny.json", "annotation 3"]),
        (change("images", 0, "width", 99), ["1.png", "72", "99"]),
        (change("images", 0, "file_name", "gone.png"), ["gone.png"]),
    ],
    ids=["no images", "unknown image", "unknown category", "NaN", "negative size", "other size", "missing file"],
)
def test_bad_annotations(workspace, spoil, parts):
    spoil(workspace.dataset)
    workspace.write()
    assert_sentence(workspace.run("train_net.py"), *parts)


def test_truncated_json(workspace):
    path = workspace.folder / "tiny.json"
    path.write_text(path.read_text()[:200])
    assert_sentence(workspace.run("train_net.py"), "tiny.json", "JSON")


def test_missing_image_folder(workspace):
    (workspace.folder / "images").rename(workspace.folder / "pictures")
    assert_sentence(workspace.run("train_net.py"), str(workspace.folder / "images"), "does not exist")


def test_empty_boxes_are_dropped_and_counted(workspace):
    workspace.dataset["annotations"][0]["bbox"][2] = 0
    workspace.write()
    result = workspace.run("train_net.py", "--skip-test")
    assert result.returncode == 0, result.stderr
    assert "1 box" in result.stdout and "left out" in result.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_unreadable_image_stops_or_is_skipped(workspace, workers):
    path = workspace.folder / "images" / "2.png"
    path.write_bytes(path.read_bytes()[:500])
    words = ["DATALOADER.NUM_WORKERS", workers]
    assert_sentence(workspace.run("train_net.py", *words), "2.png")
    skipping = workspace.run("train_net.py", *words, "DATALOADER.SKIP_UNREADABLE", "True")
    assert skipping.returncode == 0, skipping.stderr
    assert "Skipped the unreadable image" in skipping.stdout
    # The test loader skips the image too, so it must have no detections.
    detections = json.loads((workspace.out / "inference" / "tiny" / "bbox.json").read_text())
    assert 2 not in {detection["image_id"] for detection in detections}


def test_checkpoint_of_another_model(workspace, tmp_path):
    config = cfg.clone()
    state = build_detection_model(config).state_dict()
    torch.save({"model": state}, tmp_path / "resnet.pth")
    result = workspace.run("test_net.py", "MODEL.WEIGHT", str(tmp_path / "resnet.pth"))
    assert_sentence(result, "resnet.pth")


def test_testing_without_weights(workspace):
    assert_sentence(workspace.run("test_net.py"), "MODEL.WEIGHT")


def test_testing_a_file_without_a_head(workspace, trained, tmp_path):
    state = torch.load(trained.out / "model_final.pth", weights_only=True)["model"]
    body = {key.removeprefix("backbone.body."): value for key, value in state.items() if "backbone.body" in key}
    torch.save(body, tmp_path / "imagenet.pth")
    assert_sentence(
        workspace.run("test_net.py", "MODEL.WEIGHT", str(tmp_path / "imagenet.pth")), "imagenet.pth", "random"
    )


def test_nonfinite_loss_stops_with_the_state_saved(workspace):
    # With a learning rate of 1e12 the exp of the regression overflows at once.
    result = workspace.run("train_net.py", "SOLVER.BASE_LR", "1e12", "SOLVER.CHECKPOINT_PERIOD", "100")
    assert_sentence(result, "not finite at iteration", "loss_cls", "image ids [", "model_nonfinite.pth")
    saved = torch.load(workspace.out / "model_nonfinite.pth", weights_only=True)
    assert f"at iteration {saved['iteration'] + 1}:" in result.stderr
    assert not (workspace.out / "last_checkpoint").exists()


def test_batch_not_divisible_by_processes(workspace):
    result = workspace.run_processes(2, "train_net.py", "SOLVER.IMS_PER_BATCH", "3")
    assert result.returncode == 1
    assert "error: SOLVER.IMS_PER_BATCH is 3" in result.stderr
