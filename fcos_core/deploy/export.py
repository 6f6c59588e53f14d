"""Write a detector in the formats of other runtimes: ONNX, OpenVINO, and PyTorch's exported programs."""

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.data.build import build_normalization
from fcos_core.deploy.export_network import OUTPUTS, ExportNetwork, onnx_deform_conv, onnx_nms_of_images
from fcos_core.errors import InputError
from fcos_core.layers.deform_conv import DFConv2d
from fcos_core.modeling.detector import Detector
from fcos_core.structures.image_list import ByteImages
from fcos_core.utils.optional import import_optional

# Formats, with the ending of their file and the precisions that each can have.
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "aot": ".pt2"}
PRECISIONS = {
    "onnx": ("float32",),
    "openvino": ("float32", "bfloat16", "int8"),
    "torch": ("float32", "bfloat16"),
    "aot": ("float32", "bfloat16"),
}
METADATA_KEY = "fcos_core"
# Largest height and width in pixels of an exported program, whose sizes need a limit.
_LARGEST_SIDE = 8192
# DeformConv is in ONNX from version 19 on; TensorRT and older runtimes take 18.
_OPSET, _OPSET_DEFORMABLE = 18, 19

logger = logging.getLogger(__name__)


def least_side(model: Detector, kind: str) -> int:
    """Return the least height and width in pixels of a batch for an export of `kind`, a multiple of 32.

    It is a cell of the coarsest level: PyTorch shrinks the pooling of HRNet's pyramid for smaller images, and an
    exported graph has one pooling. torch.export takes one row of cells for another case than several.
    """
    cell = -(-max(model.rpn.strides) // 32) * 32
    return cell + 32 if kind in ("torch", "aot") else cell


def make_network(cfg: Config, model: Detector, kind: str, precision: str = "float32", raw: bool = False) -> Any:
    """Make the network to export as `kind`, a key of `ENDINGS`; raise InputError for a precision that it lacks."""
    check_values(cfg)
    if precision not in PRECISIONS[kind] or (raw and precision != "float32"):
        known = ", ".join(PRECISIONS[kind] if not raw else PRECISIONS[kind][:1])
        raise InputError(f"--precision {precision} is not there for this export: choose one of {known}.")
    dtype = torch.bfloat16 if precision == "bfloat16" and kind in ("torch", "aot") else torch.float32
    standard = kind in ("onnx", "openvino")
    network = ExportNetwork(model, build_normalization(cfg), dtype, standard, raw).eval()
    # Tensors of other runtimes have no memory format.
    return network.to(memory_format=torch.contiguous_format) if standard else network


def make_metadata(cfg: Config, names: Sequence[str], least: int, precision: str, raw: bool) -> dict[str, Any]:
    """Describe an exported file for programs that feed it and read its outputs; see docs/deploy.md."""
    from fcos_core import __version__

    fcos, given = cfg.MODEL.FCOS, cfg.INPUT
    return {
        "version": __version__,
        "classes": list(names),
        "precision": precision,
        "input": {
            "order": "RGB",
            "dtype": _pixel_type(cfg),
            "resize": given.RESIZE,
            "shorter_side": given.MIN_SIZE_TEST,
            "longer_side": given.MAX_SIZE_TEST,
            "padding_multiple": cfg.DATALOADER.SIZE_DIVISIBILITY or 32,
            "least_side": least,
        },
        "inside": {
            "order": "BGR" if given.TO_BGR255 else "RGB",
            "range": 255 if given.TO_BGR255 else 1,
            "mean": list(given.PIXEL_MEAN),
            "std": list(given.PIXEL_STD),
        },
        "output": {
            "raw": raw,
            "names": list(_output_names(cfg, raw)),
            "strides": list(fcos.FPN_STRIDES),
            "pixels": fcos.PIXELS,
            "locations": fcos.LOCATIONS,
            "score_threshold": fcos.INFERENCE_TH,
            "candidates_per_level": fcos.PRE_NMS_TOP_N,
            "nms_threshold": fcos.NMS_TH,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMG,
            "score": fcos.SCORE,
        },
    }


def _pixel_type(cfg: Config) -> str:
    return "float32" if cfg.INPUT.RESIZE == "torchvision" else "uint8"


def _output_names(cfg: Config, raw: bool) -> tuple[str, ...]:
    if not raw:
        return OUTPUTS
    kinds, levels = ("logits", "distances", "quality"), range(len(cfg.MODEL.FCOS.FPN_STRIDES))
    return tuple(f"{kind}_{level}" for level in levels for kind in kinds)


def write_onnx(network: ExportNetwork, path: Path, metadata: dict[str, Any]) -> None:
    """Write `network` to the ONNX file `path`, for a batch and images of any size.

    PyTorch's newer exporter (dynamo=True) is not used: it takes minutes to reason about the sizes in HRNet, and with
    PyTorch 2.11 its file had a wrong size for some images. Raise InputError if onnx is not installed.
    """
    onnx = import_optional("onnx", "onnx", "Export to ONNX")
    deformable = any(isinstance(module, DFConv2d) for module in network.modules())
    version, names = _OPSET_DEFORMABLE if deformable else _OPSET, metadata["output"]["names"]
    torch.onnx.register_custom_op_symbolic("fcos_core::nms_of_images", onnx_nms_of_images, version)
    torch.onnx.register_custom_op_symbolic("torchvision::deform_conv2d", onnx_deform_conv, version)
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "image_sizes": {0: "batch"}}
    outputs = {name: {0: "batch"} for name in names}
    if metadata["output"]["raw"]:
        outputs = {name: {0: "batch", 2: f"height_{name[-1]}", 3: f"width_{name[-1]}"} for name in names}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about constants in the graph: the file is checked at several sizes
        torch.onnx.export(
            network,
            _sample(metadata),
            str(path),
            dynamo=False,
            input_names=list(axes),
            output_names=names,
            opset_version=version,
            dynamic_axes={**axes, **outputs},
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    for value in model.graph.output:
        _name_sizes(value, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _name_sizes(value: Any, metadata: dict[str, Any]) -> None:
    """Give an output of the ONNX graph the sizes that are known, in place of names that the exporter made up."""
    sizes = value.type.tensor_type.shape.dim
    if not metadata["output"]["raw"]:
        known = metadata["output"]["detections_per_image"], 4
        for dim, size in zip(list(sizes)[1:], known, strict=False):
            dim.dim_value = size


def _sample(metadata: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return two images on which the graph is recorded, large enough that nothing in it depends on their size."""
    # Odd multiples of 32, as torch.export takes what holds for these sizes, such as a multiple of 64, for a rule.
    height, width = (metadata["input"]["least_side"] // 64 * 64 + more for more in (32, 96))
    images = torch.zeros(2, 3, height, width, dtype=getattr(torch, metadata["input"]["dtype"]))
    return images, torch.tensor([[height, width - 7], [height - 9, width]])


def write_openvino(
    onnx_path: Path, path: Path, metadata: dict[str, Any], calibration: Sequence[ByteImages] = ()
) -> None:
    """Convert the ONNX file `onnx_path` to `path`, NAME.xml, and NAME.bin.

    The weights are float32, and 8-bit integers where `calibration` is given: images whose activations give the ranges
    of post-training quantization by NNCF. Raise InputError if openvino is not installed.
    """
    openvino = import_optional("openvino", "openvino", "Export to OpenVINO")
    model = openvino.convert_model(str(onnx_path), extension=[_deform_conv_extension()])
    if calibration:
        model = _quantize(model, calibration)
    model.set_rt_info(json.dumps(metadata), METADATA_KEY)
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _deform_conv_extension() -> Any:
    """Return a reader of ONNX's DeformConv: OpenVINO has the operator but does not find it in ONNX files."""
    from openvino import opset8
    from openvino.frontend.onnx import ConversionExtension

    def convert(node: Any) -> list[Any]:
        x, weight, offset = (node.get_input(number) for number in range(3))
        pads = node.get_attribute("pads")
        sampled = opset8.deformable_convolution(
            x,
            offset,
            weight,
            node.get_attribute("strides"),
            pads[:2],
            pads[2:],
            node.get_attribute("dilations"),
            node.get_input(4) if node.get_input_size() > 4 else None,
            group=node.get_attribute("group"),
            deformable_group=node.get_attribute("offset_group"),
            bilinear_interpolation_pad=True,
        )
        return sampled.outputs()

    return ConversionExtension("DeformConv", convert)


def _quantize(model: Any, calibration: Sequence[ByteImages]) -> Any:
    nncf = import_optional("nncf", "openvino", "8-bit quantization")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    # The exponential of the last convolution would turn an error of the logarithm into percents of a distance.
    precise = [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "Convolution"
        and "bbox_pred" in operation.input_value(1).get_node().get_friendly_name()
    ]
    return nncf.quantize(
        model,
        nncf.Dataset(list(calibration), feed),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(names=precise),
    )


def feed(images: ByteImages) -> dict[str, Any]:
    """Return the inputs of an exported file, arrays by name."""
    sizes = torch.tensor(images.image_sizes, dtype=torch.int64)
    return {"images": images.pixels.contiguous().numpy(), "image_sizes": sizes.numpy()}


def write_torch(network: ExportNetwork, path: Path, metadata: dict[str, Any], aot: bool = False) -> None:
    """Write `network` as a program of torch.export, or compiled by AOTInductor for this machine's kind of CPU.

    The program calls the operator fcos_core::nms_mask, so `import fcos_core` comes before it is loaded.
    """
    batch, height, width = (
        torch.export.Dim(name, min=least, max=most)
        for name, least, most in (
            ("batch", 1, 1024),
            ("height_32", metadata["input"]["least_side"] // 32, _LARGEST_SIDE // 32),
            ("width_32", metadata["input"]["least_side"] // 32, _LARGEST_SIDE // 32),
        )
    )
    sizes = ({0: batch, 2: 32 * height, 3: 32 * width}, {0: batch})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, _sample(metadata), dynamic_shapes=sizes)
        if not aot:
            torch.export.save(program, path, extra_files={METADATA_KEY: json.dumps(metadata)})
            return
        options = {"aot_inductor.metadata": {METADATA_KEY: json.dumps(metadata)}, "freezing": True}
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a path in a new folder beside `path`; when the block ends, move the files of that folder to beside `path`.

    If the block raises, nothing is moved and nothing stays. Raise InputError if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"'{path}' cannot be written ({error.strerror}): name another file in --output.") from error
    with folder:
        yield Path(folder.name) / path.name
        for file in sorted(Path(folder.name).iterdir()):
            os.replace(file, path.parent / file.name)
