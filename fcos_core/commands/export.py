"""Export a detector to ONNX, OpenVINO or PyTorch's exported programs, and check the file in its runtime."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcos_core.config import Config
from fcos_core.deploy.export import ENDINGS
from fcos_core.engine.export import ExportOptions, evaluate_beside, export, exportable
from fcos_core.engine.program import config_parser, parse_arguments
from fcos_core.errors import InputError, require
from fcos_core.predictor import config_for
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.text import printable

_EXAMPLE = """--weights training_dir/run/model_final.pth --format onnx --check photo.jpg

Images to check the file on are those behind --check, or else of DATASETS.TEST. docs/deploy.md describes the files."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write and check the file, test it if --evaluate is given, and print the paths; None: of the command line."""
    parsed = _parse(arguments)
    setup_logger("fcos_core", save_dir="", distributed_rank=0)
    config = exportable(config_for(parsed.config_file, parsed.weights, parsed.opts))
    kind = "aot" if parsed.aot else parsed.format
    path = _path(parsed, config, kind)
    options = ExportOptions(kind, parsed.precision, parsed.raw, parsed.check, parsed.calibration)
    exported = export(config, path, options)
    if parsed.evaluate and exported is not None:
        evaluate_beside(config, exported)
    for written in [path, path.with_suffix(".bin")] if kind == "openvino" else [path]:
        print(f"Wrote {printable(written)}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser(__doc__, _EXAMPLE)
    add = parser.add_argument
    add("--weights", metavar="W", help="file, URL or name (zoo://, hf://) of a detector; default: the YAML's")
    add("--format", choices=("onnx", "openvino", "torch"), required=True, help="of the file")
    add("--output", metavar="FILE", help="default: the weights' name with the format's ending, in OUTPUT_DIR")
    add("--precision", choices=("float32", "bfloat16", "int8"), default="float32", help="default: float32")
    add("--raw", action="store_true", help="write the outputs of the head, without post-processing")
    add("--aot", action="store_true", help="with --format torch: compile for this kind of CPU (AOTInductor)")
    add("--check", nargs="+", default=(), metavar="IMAGE", help="images to check the file on; they show objects")
    add("--calibration", type=int, default=100, metavar="N", help="images that give int8 its ranges; default: 100")
    add("--evaluate", action="store_true", help="test the file on DATASETS.TEST beside the detector in PyTorch")
    return parse_arguments(parser, arguments)


def _path(parsed: argparse.Namespace, config: Config, kind: str) -> Path:
    require(parsed.calibration >= 1, "--calibration", parsed.calibration, "1 or more")
    if parsed.aot and parsed.format != "torch":
        raise InputError(f"--aot compiles PyTorch's own format: write --format torch in place of {parsed.format}.")
    if parsed.evaluate and parsed.raw:
        raise InputError("--evaluate tests detections, which --raw leaves out: leave out one of the two.")
    ending = ENDINGS[kind]
    if parsed.output:
        if not parsed.output.lower().endswith(ending):
            raise InputError(f"--output '{parsed.output}' must end in {ending}.")
        return Path(parsed.output)
    name = Path(str(config.MODEL.WEIGHT).split("://")[-1]).stem or "detector"
    marks = ["raw"] * parsed.raw + ["aot"] * parsed.aot
    marks += [parsed.precision] if parsed.precision != "float32" else []
    return Path(config.OUTPUT_DIR) / ("_".join([name, *marks]) + ending)
