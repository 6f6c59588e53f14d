"""Measure the detector beside its alternatives: python tools/benchmark.py [--MEASURE ...] [options].

Without a measure, all measures run. Each table is printed as Markdown when it is complete. --json also writes the
tables to a file, with the machine, the versions and the command line. docs/benchmarks.md explains the measures.
"""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from benchmarks import data, evaluation, growth, inference, operators, published, training
from benchmarks.models import load_config
from benchmarks.report import Table, write_json
from benchmarks.settings import Settings, default_settings
from fcos_core.engine.program import ArgumentParser, run_program
from fcos_core.utils.collect_env import collect_env_info

MEASURES: dict[str, Callable[[Settings], list[Table]]] = {
    "latency": inference.latency,
    "runtimes": inference.runtimes,
    "throughput": inference.throughput,
    "stages": inference.stages,
    "branches": inference.branches,
    "backbones": inference.backbones,
    "training": training.training,
    "operators": operators.operators,
    "loader": data.loader,
    "annotations": data.annotations,
    "evaluation": evaluation.evaluation,
    "growth": growth.growth,
    "table": published.table,
}


def main() -> None:
    """Run the measures of the command line and print their tables."""
    arguments = parse_arguments()
    settings = make_settings(arguments)
    for model in settings.models:
        load_config(model, settings.device)  # report a wrong name before minutes of measuring
    print(f"```\n{collect_env_info()}\n```", flush=True)
    tables = {}
    for name in [name for name in MEASURES if vars(arguments)[name]] or MEASURES:
        tables[name] = MEASURES[name](settings)
        for table in tables[name]:
            print(f"\n{table}", flush=True)
        if arguments.json:
            write_json(arguments.json, settings, tables)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    measures = parser.add_argument_group("measures")
    for name, measure in MEASURES.items():
        measures.add_argument(f"--{name}", action="store_true", help=measure.__doc__.splitlines()[0])
    options = parser.add_argument_group("options; the defaults depend on the device")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--models", nargs="+", metavar="NAME", help="files of configs/fcos, without .yaml")
    options.add_argument("--height", type=int, help="height of the input in pixels")
    options.add_argument("--width", type=int, help="width of the input in pixels")
    options.add_argument("--batch", type=int, help="images per batch for throughput, operators and the loader")
    options.add_argument("--train-batch", type=int, help="images per training step")
    options.add_argument("--candidates", type=int, help="class scores per image above the threshold")
    options.add_argument("--rounds", type=int, help="measurements of each contender")
    options.add_argument("--warmup", type=int, help="calls of each contender before its first measurement")
    options.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="precision of ours in the measures that take only one",
    )
    options.add_argument(
        "--coco-scale", type=float, help="size of annotation file and evaluation, as a share of COCO's size"
    )
    options.add_argument(
        "--image-folder", metavar="FOLDER", help="folder of JPEG files for the loader; drawn images without it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file that the tables are also written to")
    return parser.parse_args()


def make_settings(arguments: argparse.Namespace) -> Settings:
    """Combine the command line with the defaults of the device."""
    given = {field.name: vars(arguments)[field.name] for field in fields(Settings)}
    given = {name: value for name, value in given.items() if value is not None}
    chosen = {**default_settings(arguments.device), **given}
    return Settings(**{**chosen, "device": torch.device(arguments.device), "models": tuple(chosen["models"])})


if __name__ == "__main__":
    run_program(main)
