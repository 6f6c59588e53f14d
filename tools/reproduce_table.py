"""Test every published detector whose weights are there, and compare its AP with the published AP.

Usage: python tools/reproduce_table.py --weights FOLDER --coco FOLDER [--output FOLDER] [KEY VALUE ...]

The weights are files with their published names, or NAME.pth or NAME.safetensors, where NAME is in docs/MODEL_ZOO.md;
the cache of zoo:// names will do. The folder of COCO holds annotations/ and val2014/ or val2017/. COCO's minival of
2014 and its val of 2017 are the same 5000 images. A row passes if its AP, rounded as it was published, is at most 0.1
away. Rows that are done are not tested again unless their weights, their config or the annotations change.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcos_core.config import Config, cfg
from fcos_core.config.paths_catalog import COCO_DATASETS
from fcos_core.engine.program import ArgumentParser, parse_arguments, run_program
from fcos_core.engine.test import load_detector, test, test_data_loaders
from fcos_core.errors import InputError
from fcos_core.utils import comm
from fcos_core.utils.files import check_writable, explaining_failure, replacing
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.process_group import init_processes
from fcos_core.utils.text import printable
from fcos_core.weights.download import HASH_IN_NAME, cached_path
from fcos_core.weights.zoo import ZOO

Row = dict[str, float | str]  # "AP" in percent and "inputs", see `fingerprint`; or "error"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# AP of HRNet-FCOS's own models in percent, as published; None where no AP was. Their weights were FCOS_NAME.pth.
HRNET_FCOS: dict[str, float | None] = {
    "R_50_5l_2x": 37.1,
    "hrnet_w18_5l_2x": 37.7,
    "hrnet_w18_5l_ms_2x": None,
    "hrnet_w18_5l_ms_syncbn_2x": None,
    "R_50_6l_2x": 37.1,
    "hrnet_w18_6l_2x": 37.8,
    "hrnet_w18_6l_ms_2x": None,
    "hrnet_w18_6l_ms_syncbn_2x": None,
    "R_101_5l_2x": 41.4,
    "hrnet_w32_5l_2x": 41.9,
    "hrnet_w32_5l_syncbn_2x": None,
    "R_101_6l_2x": 41.5,
    "hrnet_w32_6l_2x": 42.1,
    "hrnet_w32_6l_syncbn_2x": 43.0,
    "hrnet_w40_6l_3x": 42.6,
}
# File of the output folder with the AP of every row that is done.
RESULTS = "results.json"
# Largest difference from a published AP, both rounded to one digit.
_TOLERANCE = 0.1


@dataclass(frozen=True)
class Model:
    """A published detector.

    Attributes:
        name: of the model in docs/MODEL_ZOO.md.
        config: path of its YAML file.
        files: names that its file of weights may have, the published one first.
        ap: AP on COCO minival in percent, as published; None: not published.
    """

    name: str
    config: Path
    files: tuple[str, ...]
    ap: float | None


def published_models() -> list[Model]:
    """Return every published detector, HRNet-FCOS's own first."""
    models = [
        Model(
            f"fcos_{name}", CONFIGS / "fcos" / f"fcos_{name}.yaml", _file_names(f"fcos_{name}", f"FCOS_{name}.pth"), ap
        )
        for name, ap in HRNET_FCOS.items()
    ]
    for name, model in ZOO.items():
        if model.ap is not None:
            file = os.path.basename(model.url)
            files = _file_names(name, file, os.path.basename(cached_path(model.url)))
            models.append(Model(name, CONFIGS / "zoo" / f"{model.conventions}.yaml", files, model.ap))
    return models


def _file_names(name: str, *published: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*published, f"{name}.pth", f"{name}.safetensors"]))


def find_weights(models: Iterable[Model], folder: Path) -> dict[Model, Path]:
    """Return the models whose file of weights is in `folder`, in the order of the table, with the file."""
    found = {}
    for model in models:
        files = [folder / name for name in model.files if (folder / name).is_file()]
        if files:
            found[model] = files[0]
    return found


def minival(coco: Path) -> tuple[str, Path, Path]:
    """Return the name, the image folder and the annotation file of COCO's minival in the folder `coco`.

    Raise InputError if neither minival of 2014 nor val of 2017 is there.
    """
    wanted = []
    for name in ("coco_2014_minival", "coco_2017_val"):
        images, annotations = (coco / path.removeprefix("coco/") for path in COCO_DATASETS[name])
        if images.is_dir() and annotations.is_file():
            return name, images, annotations
        wanted.append(f"'{annotations}' and the folder '{images}'")
    raise InputError(f"--coco has no minival: it needs {', or '.join(wanted)}.")


def make_model_config(
    model: Model, weights: Path, data: tuple[str, Path, Path], output: Path, options: Sequence[str]
) -> Config:
    """Merge the YAML file of `model` and `options`, KEY VALUE pairs; test `weights` on `data`, see `minival`."""
    name, images, annotations = data
    config = cfg.clone()
    config.merge_from_file(str(model.config))
    config.merge_from_list(options)
    config.MODEL.WEIGHT, config.OUTPUT_DIR = str(weights), str(output / model.name)
    config.DATASETS.TEST = (name,)
    config.DATASETS.CATALOG[name] = Config({"img_dir": str(images.absolute()), "ann_file": str(annotations.absolute())})
    config.freeze()
    return config


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits; raise InputError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            while chunk := opened.read(1 << 24):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"'{file}' cannot be read ({error.strerror}): check its disk and its permissions.") from error
    return digest.hexdigest()


def fingerprint(config: Config, *digests: str) -> str:
    """Return the SHA-256 of a config, without its paths, and of `digests`, those of the files that it names."""
    config = config.clone()
    config.defrost()
    config.MODEL.WEIGHT = config.OUTPUT_DIR = config.DATASETS.DATA_DIR = ""
    config.DATASETS.CATALOG = Config()
    return hashlib.sha256("".join([config.dump(), *digests]).encode()).hexdigest()


def measure(model: Model, config: Config, annotations: str, earlier: Row) -> Row:
    """Test a model and return its row; return `earlier`, the row of an earlier run, if nothing has changed since.

    `annotations` is the SHA-256 of the annotation file. Only the first rank gets an AP. What is wrong with the weights
    stands in the row; anything else would be wrong for other rows too: raise InputError.
    """
    weights = Path(config.MODEL.WEIGHT)
    # A file in this project's layout, which has another hash, has another name than the published one.
    stated = HASH_IN_NAME.search(weights.name) if weights.name == model.files[0] else None
    try:
        digest = sha256(weights)
        inputs = fingerprint(config, digest, annotations)
        if earlier.get("inputs") == inputs:
            return earlier
        if stated and not digest.startswith(stated[1]):
            raise InputError(f"'{weights}' is damaged: its SHA-256 starts with {digest[:8]}. Download it again.")
        detector = load_detector(config)
    except InputError as error:
        return {"error": str(error)}
    (results,) = test(config, test_data_loaders(config), detector).values()
    return {"inputs": inputs, "AP": 100 * results["bbox"]["AP"]} if results is not None else {}


def verdict(model: Model, row: Row) -> str:
    """Return "pass" or "FAIL"; "no published AP" where there is nothing to compare with."""
    if "error" in row:
        return "FAIL"
    if model.ap is None:
        return "no published AP"
    return "pass" if abs(round(float(row["AP"]), 1) - model.ap) < _TOLERANCE + 1e-6 else "FAIL"


def line(model: Model, row: Row) -> str:
    """Return a row as text: name, AP, published AP, verdict."""
    measured = f"{row['AP']:6.2f}" if "AP" in row else f"{'-':>6}"
    published = f"{model.ap:5.1f}" if model.ap is not None else f"{'-':>5}"
    error = f": {printable(row['error'])}" if "error" in row else ""
    return f"{model.name:42} {measured} {published}  {verdict(model, row)}{error}"


def reproduce(
    models: Sequence[Model],
    weights: Path,
    coco: Path,
    output: Path,
    options: Sequence[str] = (),
    local_rank: int | None = None,
) -> None:
    """Test the models whose weights are there, and print their rows, the missing models and the counts.

    Args:
        models: all rows of the table.
        weights: folder of the weights.
        coco: folder of COCO, see `minival`.
        output: gets the log, results.json, and a folder for each model.
        options: KEY VALUE pairs for the config of every model.
        local_rank: see `init_processes`.

    Raises:
        InputError: an argument cannot be used, or a model fails.
    """
    data, found = minival(coco), find_weights(models, weights)
    if not found:
        raise InputError(f"--weights '{weights}' has no file of the table, such as {models[0].files[0]}.")
    configs = {model: make_model_config(model, file, data, output, options) for model, file in found.items()}
    init_processes(next(iter(configs.values())), local_rank)
    check_writable(str(output), "--output", RESULTS)
    setup_logger("fcos_core", str(output), comm.get_rank())
    rows, annotations = read_results(output), sha256(data[2])
    for model, config in configs.items():
        rows[model.name] = measure(model, config, annotations, rows.get(model.name, {}))
        if comm.is_main_process():
            write_results(output, rows)
            print(line(model, rows[model.name]), flush=True)
    if comm.is_main_process():
        summarize(models, {model: rows[model.name] for model in found})


def summarize(models: Iterable[Model], rows: Mapping[Model, Row]) -> None:
    """Print the models without weights, then every row, then the counts; raise InputError if a model fails."""
    for model in models:
        if model not in rows:
            print(f"{model.name:42} no weights: {model.files[0]} is not there")
    print(f"\n{'model':42} {'AP':>6} {'publ.':>5}")
    print(*(line(model, row) for model, row in rows.items()), sep="\n")
    verdicts = [verdict(model, row) for model, row in rows.items()]
    failed = [model.name for model, row in rows.items() if verdict(model, row) == "FAIL"]
    missing = sum(model not in rows for model in models)
    print(
        f"{len(rows)} tested: {verdicts.count('pass')} pass, {len(failed)} fail, "
        f"{verdicts.count('no published AP')} without a published AP; {missing} without weights.",
        flush=True,
    )
    if failed:
        raise InputError(f"{len(failed)} of {len(rows)} models fail: {', '.join(failed)}.")


def read_results(output: Path) -> dict[str, Row]:
    """Return the rows of earlier runs by name; raise InputError if their file is damaged."""
    path = output / RESULTS
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {name: dict(row) for name, row in rows.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is damaged ({error}): delete it, and all models are tested again.") from error


def write_results(output: Path, rows: Mapping[str, Row]) -> None:
    """Write the rows, so that a run that is stopped goes on here."""
    with explaining_failure(output / RESULTS), replacing(str(output / RESULTS)) as file:
        file.write(json.dumps(rows, indent=1).encode())


def main() -> None:
    """Test the models of the table whose weights are in --weights."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, metavar="FOLDER", help="folder of the weights")
    parser.add_argument("--coco", type=Path, required=True, metavar="FOLDER", help="holds annotations/ and val2017/")
    parser.add_argument("--output", type=Path, default=Path("output/reproduce_table"), metavar="FOLDER")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help="set by torch.distributed.launch")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, such as MODEL.DEVICE cpu")
    words = parse_arguments(parser)
    reproduce(published_models(), words.weights, words.coco, words.output, words.opts, words.local_rank)


if __name__ == "__main__":
    run_program(main)
