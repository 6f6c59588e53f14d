"""Exported files compute in their own runtimes what the detector computes in PyTorch."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_detector import build_random_detector
from torch import nn

from fcos_core import Predictor
from fcos_core.commands.export import main
from fcos_core.deploy.exported import Agreement, ExportedDetector, check_detections, compare_detections, open_exported
from fcos_core.engine import export as engine_export
from fcos_core.engine.export import ExportOptions, evaluate_beside, export, exportable
from fcos_core.errors import InputError
from fcos_core.layers.own_dtype import GroupNorm
from fcos_core.modeling.backbone.build import body_with_neck
from fcos_core.modeling.neck.fpn import FPN
from fcos_core.modeling.registry import BACKBONES
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, PixelNormalization

onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
SIZES = [(150, 200), (240, 130)]


class FewConvs(nn.Module):
    """A body of five convolutions: torch.export takes half a minute for the sizes in the smallest HRNet."""

    def __init__(self):
        super().__init__()
        widths = (3, 8, 16, 16, 16, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), GroupNorm(4, b)) for a, b in pairwise(widths)
        )

    def forward(self, x):
        maps = []
        for block in self.blocks:
            x = block(x).relu()
            maps.append(x)
        return maps[1:]


@BACKBONES.register("FEW-CONVS")
def build_few_convs(cfg):
    return body_with_neck(FewConvs(), FPN((16,) * 4, 32, 5))


def picture(height, width):
    rng = np.random.default_rng(height)
    blocks = np.kron(rng.random((-(-height // 16), -(-width // 16), 3)), np.ones((16, 16, 1)))
    return Image.fromarray((blocks[:height, :width] * 200 + rng.random((height, width, 3)) * 55).astype(np.uint8))


def save_detector(config, path):
    model = build_random_detector(config)
    torch.save({"model": model.state_dict(), "categories": ["a", "b", "c"], "config": config.dump()}, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photographs, and their annotations: a box of each class."""
    folder = tmp_path_factory.mktemp("export")
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES, 1):
        picture(height, width).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for category in (1, 2, 3):
            box = [10 * category, 5, 40, 50]
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            annotations.append({**one, "area": 2000, "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate("abc", 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "tiny.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def make_config(small_config, folder):
    """Return a function: name of the weights, and options, to the config of a detector that is written there."""

    def make(name, *options):
        config = small_config.clone()
        catalog = ["DATASETS.CATALOG.tiny.img_dir", str(folder)]
        catalog += ["DATASETS.CATALOG.tiny.ann_file", str(folder / "tiny.json")]
        sizes = ["INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 256, "MODEL.FCOS.NUM_CLASSES", 4]
        data = [*catalog, "DATASETS.TEST", ("tiny",), "DATALOADER.NUM_WORKERS", 0]
        config.merge_from_list([*sizes, *data, "OUTPUT_DIR", str(folder / "out"), *options])
        config.MODEL.WEIGHT = str(folder / f"{name}.pth")
        save_detector(config, config.MODEL.WEIGHT)
        return exportable(config)

    return make


@pytest.fixture(scope="module")
def config(make_config):
    return make_config("hrnet")


@pytest.fixture(scope="module")
def onnx_file(config, folder):
    path = folder / "hrnet.onnx"
    export(config, path, ExportOptions("onnx", check=[str(folder / "1.png"), str(folder / "2.png")]))
    return path


def test_the_program_of_the_documentation_gives_the_predictors_boxes(onnx_file, config, folder):
    """The program needs numpy, Pillow and ONNX Runtime. Its resizing is PIL's, within a grey level of the detector's;
    on an image that has the right size already, nothing is resized.
    """
    program = re.search(r"```python\n(# run_onnx.py.*?)```", DEPLOY.read_text(encoding="utf-8"), re.DOTALL)[1]
    namespace = {"__name__": "run_onnx"}
    exec(program, namespace)
    picture(160, 224).save(folder / "fits.png")
    boxes, scores, labels, names = namespace["detect"](str(onnx_file), str(folder / "fits.png"))
    expected = Predictor(config, threshold=0.0, compile=False)(str(folder / "fits.png"))
    assert len(boxes) == len(expected) == 100
    np.testing.assert_allclose(boxes, expected.bbox, rtol=0, atol=0.05)
    np.testing.assert_allclose(scores, expected.get_field("scores"), rtol=0, atol=1e-4)
    assert [names[label] for label in labels] == expected.get_field("names")


def test_file_describes_itself(onnx_file):
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["fcos_core"])
    assert metadata["classes"] == ["a", "b", "c"]
    assert metadata["input"] == {
        **{"order": "RGB", "dtype": "uint8", "resize": "fcos", "shorter_side": 160, "longer_side": 256},
        **{"padding_multiple": 32, "least_side": 128},
    }
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("images", ["batch", 3, "height", "width"], "tensor(uint8)"),
        ("image_sizes", ["batch", 2], "tensor(int64)"),
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("num_detections", ["batch"]),
        ("boxes", ["batch", 100, 4]),
        ("scores", ["batch", 100]),
        ("labels", ["batch", 100]),
    ]


def test_padding_may_hold_any_value(onnx_file):
    """The detector's own padding is zero."""
    run = open_exported(onnx_file, "onnx")
    pixels = torch.randint(0, 256, (1, 3, 160, 224), dtype=torch.uint8)
    pixels[..., 150:, :], pixels[..., 200:] = 0, 0
    others = pixels.clone()
    others[..., 150:, :], others[..., 200:] = 7, 255
    normalization = PixelNormalization((0.0,) * 3, (1.0,) * 3, True)  # not read
    results = [run(ByteImages(batch, [(150, 200)], normalization)) for batch in (pixels, others)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_command_prints_what_it_wrote(config, folder, capsys):
    """--raw: the command compares each output of the head."""
    main(["--weights", config.MODEL.WEIGHT, "--format", "onnx", "--raw", "OUTPUT_DIR", str(folder / "out")])
    path = folder / "out" / "hrnet_raw.onnx"
    assert capsys.readouterr().out.splitlines()[-1] == f"Wrote {path}"
    names = [value.name for value in onnx.load(str(path)).graph.output]
    assert names[:4] == ["logits_0", "distances_0", "quality_0", "logits_1"] and len(names) == 15


# Later FCOS, with deformable convolutions; and the conventions of torchvision, whose pixels are float32.
KINDS = {
    "later": ["NORM_REG_TARGETS", True, "CENTERNESS_ON_REG", True, "USE_DCN_IN_TOWER", True, "SCORE", "sqrt"],
    "adelaidet": ["SCORE", "sqrt", "PIXELS", "continuous", "CLIP", "after_nms", "DROP_EMPTY", True],
    "torchvision": ["PIXELS", "continuous", "CANDIDATES", "score", "LOCATIONS", "corner", "RANK_BY", "class"],
}


@pytest.mark.parametrize("name", ["later", *(pytest.param(name, marks=pytest.mark.slow) for name in list(KINDS)[1:])])
def test_every_convention_in_openvino(make_config, folder, name):
    """OpenVINO's file is made of the ONNX file, so that the check is one of both."""
    options = [f"MODEL.FCOS.{word}" if place % 2 == 0 else word for place, word in enumerate(KINDS[name])]
    if name == "torchvision":
        options += ["INPUT.RESIZE", "torchvision", "INPUT.TO_BGR255", False]
        options += ["INPUT.PIXEL_MEAN", [0.485, 0.456, 0.406], "INPUT.PIXEL_STD", [0.229, 0.224, 0.225]]
    few = ["MODEL.BACKBONE.CONV_BODY", "FEW-CONVS", *options]
    path = folder / name / "file.xml"
    assert export(make_config(name, *few), path, ExportOptions("openvino")) is not None
    assert sorted(file.name for file in path.parent.iterdir()) == ["file.bin", "file.xml"]
    info = openvino.Core().read_model(str(path)).get_rt_info("fcos_core")
    assert json.loads(info.astype(str))["output"]["pixels"] == ("inclusive" if name == "later" else "continuous")


@pytest.mark.slow
def test_int8_has_its_ap_beside_pytorchs(make_config, folder, caplog):
    config = make_config("int8", "MODEL.BACKBONE.CONV_BODY", "FEW-CONVS")
    exported = export(config, folder / "int8.xml", ExportOptions("openvino", "int8", calibration=2))
    with caplog.at_level("INFO"):
        ((before, after),) = evaluate_beside(config, exported).values()
    assert f"AP on tiny: {before:.4f} in PyTorch, {after:.4f} exported" in caplog.text
    assert (folder / "int8.bin").stat().st_size < 0.5 * Path(config.MODEL.WEIGHT).stat().st_size


@pytest.mark.slow
def test_program_of_torch_export(make_config, folder):
    config = make_config("program", "MODEL.BACKBONE.CONV_BODY", "FEW-CONVS")
    export(config, folder / "program.pt2", ExportOptions("torch"))
    files = {"fcos_core": ""}
    torch.export.load(folder / "program.pt2", extra_files=files)
    assert json.loads(files["fcos_core"])["classes"] == ["a", "b", "c"]


def test_file_that_computes_something_else_is_not_written(config, folder, monkeypatch):
    make_network = engine_export.make_network

    def make_wrong(*arguments):
        network = make_network(*arguments)
        network.mean += 1.0  # of 255 grey levels
        return network

    monkeypatch.setattr(engine_export, "make_network", make_wrong)
    with pytest.raises(InputError, match="does not detect what PyTorch does, and was not written"):
        export(config, folder / "wrong" / "file.onnx", ExportOptions("onnx"))
    assert list((folder / "wrong").iterdir()) == []


def test_wrong_words_are_one_sentence(config, folder):
    words = ["--weights", config.MODEL.WEIGHT, "--format", "onnx"]
    for more, sentence in (
        (["--precision", "int8"], "--precision int8 is not there for this export: choose one of float32"),
        (["--output", "file.xml"], "--output 'file.xml' must end in .onnx"),
        (["--aot"], "--aot compiles PyTorch's own format"),
        (["--check", str(folder / "none.png")], "none.png"),
    ):
        with pytest.raises(InputError, match=re.escape(sentence)):
            main([*words, *more])


def boxes(rows, scores):
    found = BoxList(torch.tensor(rows), (100, 100), "xyxy")
    found.add_field("scores", torch.tensor(scores))
    found.add_field("labels", torch.ones(len(rows), dtype=torch.int64))
    return found


def agreement_of(one, other):
    images = ByteImages(torch.zeros(1, 3, 32, 32), [(100, 100)], PixelNormalization((0.0,) * 3, (1.0,) * 3, True))
    detector = ExportedDetector(None, 32)
    detector.forward = lambda images: [other]
    return compare_detections(lambda images: [one], detector, [images], exact=True)


def test_ties_are_told_apart_from_errors():
    """Of 100 boxes, one is another one that overlaps it: a tie if the scores are equal, otherwise an error."""
    rows = [[float(i), 0.0, i + 0.5, 9.0] for i in range(99)]
    scores = [0.1, *(0.9 - i / 1000 for i in range(99))]
    one = boxes([*rows, [10.0, 20.0, 50.0, 60.0]], scores)
    tied = agreement_of(one, boxes([*rows, [11.0, 20.0, 51.0, 60.0]], scores))
    assert (tied.matched, tied.ties) == (99, 1)
    check_detections(tied, "float32")
    wrong = agreement_of(one, boxes([*rows, [11.0, 20.0, 51.0, 60.0]], [*scores[:99], scores[99] - 0.01]))
    assert (wrong.matched, wrong.ties) == (99, 0)
    with pytest.raises(InputError, match="99 of 100 detections matched"):
        check_detections(wrong, "float32")


def test_last_place_may_go_to_another_box():
    """The last box of a full list lies elsewhere; the first must not."""
    rows = [[float(i), 0.0, i + 0.5, 9.0] for i in range(100)]
    scores = [0.9 - i / 1000 for i in range(100)]
    elsewhere = [10.0, 20.0, 50.0, 60.0]
    last = agreement_of(boxes(rows, scores), boxes([*rows[:99], elsewhere], scores))
    assert (last.matched, last.ties) == (99, 1)
    check_detections(last, "float32")
    first = agreement_of(boxes(rows, scores), boxes([elsewhere, *rows[1:]], scores))
    with pytest.raises(InputError, match="99 of 100 detections matched"):
        check_detections(first, "float32")


def test_check_that_proves_nothing_is_an_error():
    with pytest.raises(InputError, match="name images with objects behind --check"):
        check_detections(Agreement(["1x3x160x224"]), "float32")
