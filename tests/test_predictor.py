"""Picture in, boxes out: the predictor gives what tools/test_net.py gives, for every form a picture comes in."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fcos_core
from fcos_core import Predictor
from fcos_core.data import make_data_loader
from fcos_core.engine.inference import compute_predictions
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model
from fcos_core.weights.checkpointer import DetectronCheckpointer


@pytest.fixture(scope="module")
def config(small_config):
    config = small_config.clone()
    config.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 4, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 107])
    # Random weights score every class near 0.5, so that each image has detections of each class.
    config.MODEL.FCOS.PRIOR_PROB = 0.5
    return config


@pytest.fixture(scope="module")
def weights(config, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    model = build_detection_model(config)
    # Scores of different locations differ by more than rounding.
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.5)
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def predictor(config, weights):
    return Predictor(config, weights)


def picture(size=(80, 60), seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def assert_same(found, expected, score=1e-5, pixels=1e-3):
    assert found.size == expected.size and len(found) == len(expected) > 0
    torch.testing.assert_close(found.get_field("scores"), expected.get_field("scores"), rtol=0, atol=score)
    torch.testing.assert_close(found.bbox, expected.bbox, rtol=0, atol=pixels)
    assert found.get_field("names") == expected.get_field("names")


def test_boxes_are_in_pixels_of_the_picture_with_scores_labels_and_names(predictor):
    boxes = predictor(picture((160, 120)))
    assert boxes.mode == "xyxy" and boxes.size == (160, 120)
    assert boxes.bbox[:, 0::2].max() <= 160 and boxes.bbox[:, 2].max() > 107
    scores, labels = boxes.get_field("scores"), boxes.get_field("labels")
    assert (scores[:-1] >= scores[1:]).all() and scores.min() >= 0.3
    assert boxes.get_field("names") == [f"class {label}" for label in labels.tolist()]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_a_file_a_pil_image_and_an_array_are_one_picture(predictor, tmp_path, suffix):
    image = picture()
    image.save(tmp_path / f"i.{suffix}")
    expected = predictor(image)
    rgb = np.array(image)
    assert_same(predictor(tmp_path / f"i.{suffix}"), expected)
    assert_same(predictor(str(tmp_path / f"i.{suffix}")), expected)
    assert_same(predictor(rgb), expected)
    assert_same(predictor(rgb[..., ::-1], bgr=True), expected)
    # Channel order matters: the network sees another picture when the order is not said.
    assert not torch.equal(predictor(rgb[..., ::-1]).bbox[:5], expected.bbox[:5])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_turned_upright_as_its_exif_tag_says(predictor, tmp_path, orientation):
    upright = picture()
    # The transposition that each orientation undoes (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "i.png", exif=exif)
    assert_same(predictor(tmp_path / "i.png"), predictor(upright))


def test_grey_cmyk_palette_and_16_bit_pictures(predictor, tmp_path):
    grey = picture().convert("L")
    expected = predictor(grey.convert("RGB"))
    assert_same(predictor(grey), expected)
    assert_same(predictor(grey.convert("P")), expected)
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    sixteen.save(tmp_path / "i.png")
    assert_same(predictor(tmp_path / "i.png"), expected)
    cmyk = picture().convert("CMYK")
    assert_same(predictor(cmyk), predictor(cmyk.convert("RGB")))


@pytest.mark.parametrize("ims_per_batch", [1, 3, 8])
def test_boxes_of_a_picture_do_not_depend_on_what_it_is_batched_with(config, weights, ims_per_batch):
    config = config.clone()
    config.TEST.IMS_PER_BATCH = ims_per_batch
    predictor = Predictor(config, weights)
    sizes = [(80, 60), (60, 80), (100, 60), (80, 60), (61, 80), (64, 64), (80, 60), (40, 90), (80, 60)]
    pictures = [picture(size, seed) for seed, size in enumerate(sizes)]
    together = predictor(pictures)
    assert [boxes.size for boxes in together] == sizes
    for boxes, image in zip(together, pictures, strict=True):
        assert_same(boxes, predictor(image))


@pytest.mark.parametrize("rule", ["fcos", "detectron2", "mmdet", "torchvision"])
def test_boxes_are_those_of_a_test_whatever_the_rule_of_resizing(config, weights, tmp_path, rule):
    config = config.clone()
    config.merge_from_list(["INPUT.RESIZE", rule, "MODEL.FCOS.PIXELS", "inclusive" if rule == "fcos" else "continuous"])
    config.merge_from_list(["DATALOADER.NUM_WORKERS", 0, "DATASETS.TEST", ("own",)])
    config.merge_from_list(["DATASETS.CATALOG.own.img_dir", str(tmp_path)])
    config.merge_from_list(["DATASETS.CATALOG.own.ann_file", str(tmp_path / "own.json")])
    image = {"id": 1, "file_name": "i.png", "width": 50, "height": 30}
    categories = [{"id": number, "name": f"class {number}"} for number in (1, 2, 3)]
    (tmp_path / "own.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": categories}))
    picture((50, 30)).save(tmp_path / "i.png")
    predictor = Predictor(config, weights, threshold=0.0, compile=False)
    (loader,) = make_data_loader(config, is_train=False)
    expected = compute_predictions(predictor._model, loader, "cpu")[0]
    found = predictor(tmp_path / "i.png")
    assert torch.equal(found.bbox, expected.bbox) and found.size == expected.size == (50, 30) and len(found) == 100
    assert found.continuous == expected.continuous == (rule != "fcos")


def test_no_pictures_give_no_boxes(predictor):
    assert predictor([]) == []


def test_a_detector_that_is_not_compiled_gives_the_same_boxes(config, weights, predictor):
    # Compiling folds normalizations into convolutions: the issue of the compiler allows 1e-4 in score and 0.05 px.
    assert_same(Predictor(config, weights, compile=False)(picture()), predictor(picture()), 1e-4, 0.05)


def test_the_threshold_is_the_lowest_score(config, weights, predictor):
    scores = predictor(picture()).get_field("scores")
    threshold = float(scores[len(scores) // 2])
    boxes = Predictor(config, weights, threshold=threshold)(picture())
    assert len(boxes) == int((scores >= threshold).sum()) < len(scores)


def test_each_class_may_have_a_threshold_of_its_own(config, weights, predictor):
    found = predictor(picture())
    of_one = found.get_field("scores")[found.get_field("labels") == 1]
    middle = float(of_one[len(of_one) // 2])
    boxes = Predictor(config, weights, threshold={"class 1": middle, "class 2": 1})(picture())
    kept = {name: boxes.get_field("names").count(name) for name in ("class 1", "class 2", "class 3")}
    # A class without a threshold has that of a predictor to which none is given.
    of_three = int((found.get_field("labels") == 3).sum())
    assert kept == {"class 1": int((of_one >= middle).sum()), "class 2": 0, "class 3": of_three} and of_three > 0


@pytest.mark.parametrize(
    ("threshold", "sentence"),
    [
        ({"cat": 0.4}, "given for 'cat', which is no class of the detector: it has 'class 1', 'class 2', 'class 3'"),
        ({"class 1": 40}, "threshold of 'class 1' is 40: give a score from 0 to 1"),
        ({"class 1": "0.4"}, "is '0.4': give a score"),
        ({"class 1": None}, "is None: give a score"),
        ({"class 1": True}, "is True: give a score"),
        (float("nan"), "is nan: give a score"),
    ],
)
def test_thresholds_of_no_use_are_sentences(predictor, threshold, sentence):
    with pytest.raises(InputError, match=sentence):
        predictor.threshold = threshold


def test_numpy_numbers_are_thresholds(predictor):
    before = predictor.threshold
    for number in (np.float32(0.5), np.float64(0.5)):
        predictor.threshold = number
        assert predictor.thresholds.tolist() == [0.5] * 3
    predictor.threshold = before


def test_a_name_of_the_zoo_has_a_config_without_any_file(monkeypatch):
    monkeypatch.setattr(fcos_core.predictor, "read_meta", lambda _: pytest.fail("the weights are not needed for it"))
    config = fcos_core.predictor.config_of("zoo://mmdet_fcos_hrnetv2p_w18_1x")
    # configs/zoo/mmdet_fcos_hrnetv2p_w18.yaml
    assert config.MODEL.BACKBONE.CONV_BODY == "HRNET-W18" and config.INPUT.PIXEL_STD == [57.375, 57.12, 58.395]


def test_config_and_weights_may_come_from_files(config, weights, predictor, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(config.dump())
    assert_same(Predictor(path, str(weights), device="cpu")(picture()), predictor(picture()))
    named = config.clone()
    named.MODEL.WEIGHT = str(weights)
    assert_same(Predictor(named)(picture()), predictor(picture()))
    assert config.MODEL.WEIGHT == "", "the caller's config stays as it is"


def test_names_are_those_of_the_dataset(config, weights, tmp_path):
    categories = [{"id": 7, "name": "apple"}, {"id": 3, "name": "pear"}, {"id": 9, "name": "plum"}]
    content = {"images": [{"id": 1, "file_name": "1.png", "width": 5, "height": 5}], "categories": categories}
    (tmp_path / "own.json").write_text(json.dumps({**content, "annotations": []}))
    own = config.clone()
    own.merge_from_list(["DATASETS.TEST", ("own",), "DATASETS.CATALOG.own.img_dir", str(tmp_path)])
    own.merge_from_list(["DATASETS.CATALOG.own.ann_file", str(tmp_path / "own.json")])
    # Labels follow ascending category ids.
    assert Predictor(own, weights).category_names == ("pear", "apple", "plum")


def test_a_checkpoint_of_this_project_needs_no_config(config, tmp_path):
    run = config.clone()
    run.MODEL.DEVICE = "cuda:7"  # the device of the machine that trained is of no use here
    model = build_detection_model(config)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.5)
    checkpointer = DetectronCheckpointer(run, model, save_dir=str(tmp_path))
    checkpointer.categories = ["pear", "apple", "plum"]
    checkpointer.save("model_final")
    path = tmp_path / "model_final.pth"
    alone = Predictor(weights=path, compile=False)
    assert alone.category_names == ("pear", "apple", "plum")
    assert_same(alone(picture()), Predictor(config, path, compile=False)(picture()))
    with pytest.raises(InputError, match=r"as '.*bare\.pth' has none: give the path of the YAML"):
        torch.save(model.state_dict(), tmp_path / "bare.pth")
        Predictor(weights=tmp_path / "bare.pth")


@pytest.mark.parametrize(
    ("text", "sentence"), [("a: [", "not valid YAML"), ("[1]", "has no sections"), ("NO_KEY: 1", "NO_KEY")]
)
def test_a_config_of_no_use_in_a_checkpoint_is_a_sentence(tmp_path, text, sentence):
    torch.save({"model": {"a": torch.zeros(1)}, "config": text}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=sentence):
        Predictor(weights=tmp_path / "w.pth")


def test_a_checkpoint_chooses_no_file_of_this_machine(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 5")
    torch.save({"model": {}, "config": f"_BASE_: {tmp_path}/base.yaml"}, tmp_path / "w.pth")
    assert fcos_core.predictor.config_of(tmp_path / "w.pth").SEED == 0


def test_names_of_coco_need_no_annotation_file(config):
    coco = config.clone()
    coco.merge_from_list(["DATASETS.TEST", ("coco_2014_minival",), "MODEL.FCOS.NUM_CLASSES", 81])
    names = fcos_core.data.category_names.category_names(coco)
    # COCO's 80 categories in the order of their ids, 1 to 90 (cocodataset.org, "explore").
    assert len(names) == 80 and names[0] == "person" and names[12] == "parking meter" and names[79] == "toothbrush"


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((4, 5), np.uint8), r"uint8 of shape \(H, W, 3\); this one is uint8 of shape \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"shape \(4, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros((4, 5, 3), np.uint16), "uint16"),
        (np.zeros((4, 5, 3), bool), "bool"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\)"),
        (np.array(None), r"object of shape \(\)"),
        (Image.new("F", (5, 4), 0.5), r"The PIL image cannot be read: its pixels are 32-bit floats"),
        (Image.new("I", (5, 4), 200), r"The PIL image cannot be read: its pixels are integers"),
        (Image.new("I;16", (5, 4), 200), r"The PIL image cannot be read: it has 16 bits but no value above 200"),
        (Image.new("RGB", (0, 4)), "has no pixels"),
        (".", "it is a folder, not a file"),
        (torch.zeros(3, 4, 5), "not Tensor"),
        (None, "not NoneType"),
        ("nowhere.jpg", r"'nowhere\.jpg' .* cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_sentence(predictor, image, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        predictor(image)
    assert "SKIP_UNREADABLE" not in str(caught.value)


def test_the_limit_of_pixels_holds_for_files_and_names_the_number_to_write(config, weights, tmp_path):
    picture().save(tmp_path / "i.png")
    small = config.clone()
    small.INPUT.MAX_PIXELS = 4000
    with pytest.raises(InputError, match=r"i\.png.* set INPUT\.MAX_PIXELS 4800\."):
        Predictor(small, weights, compile=False)(tmp_path / "i.png")


def test_a_predictor_without_config_or_weights_says_what_to_give(config):
    with pytest.raises(InputError, match="needs a config: give the path of the YAML"):
        Predictor()
    with pytest.raises(InputError, match=r"MODEL\.WEIGHT"):
        Predictor(config)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"no CUDA device.*cpu"):
            Predictor(config, "any.pth", device="cuda")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(config, weights, tmp_path, value):
    content = torch.load(weights)
    content["model"]["rpn.head.centerness.bias"].fill_(value)
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth' has NaN, .*rpn\.head\.centerness\.bias.*name an earlier checkpoint"):
        Predictor(config, tmp_path / "w.pth", compile=False)
