"""Detect objects in images, videos and live pictures."""

import argparse
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fcos_core.data.json_stream import explain_broken_json
from fcos_core.engine.predict import Summary, predict
from fcos_core.engine.predict_inputs import Source, find_sources
from fcos_core.engine.predict_tiles import Detect, Tracker, on_tiles
from fcos_core.engine.predict_window import Window
from fcos_core.engine.program import config_parser, parse_arguments
from fcos_core.errors import InputError, require
from fcos_core.evaluation.analysis import DEFAULT_THRESHOLD
from fcos_core.predictor import Predictor, config_for
from fcos_core.utils.logger import setup_logger
from fcos_core.utils.text import printable

_EXAMPLE = "--weights training_dir/run/model_final.pth --input photos clip.mp4 --output found"

# Pictures that are named one by one when the command ends.
_MOST_NAMED = 10
# A key of the config.
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*")

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Detect, and print a summary; `predict` describes the files. None: take the arguments of the command line."""
    parsed = _parse(arguments)
    setup_logger("fcos_core", save_dir="", distributed_rank=0)
    output = Path(parsed.output)
    sources = find_sources(parsed.input, output)
    _check_arguments(parsed, sources)
    window = Window() if parsed.show else None
    predictor = make_predictor(parsed)
    detect, tracked = _make_steps(parsed, predictor)
    names, batch = predictor.category_names, predictor.ims_per_batch
    summary = predict(detect, sources, output, names, predictor.read, batch, tracked, not parsed.no_pictures, window)
    _report(summary, output)
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.failures:
        count = f"{len(summary.failures)} of {len(sources)} inputs could not be read to the end, the others are done. "
        raise InputError(f"{count if len(sources) > 1 else ''}{summary.failures[0]}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser(
        "Detect objects in images, videos and live pictures. Write them to detections.json and detections.csv, and "
        "draw them on copies of the images and videos. docs/predict.md describes the files.",
        _EXAMPLE,
    )
    add = parser.add_argument
    add("--weights", metavar="W", help="file, URL or name (zoo://, hf://) of a detector; default: the YAML's")
    add(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="images, folders, 'patterns*', videos, camera numbers, URLs of streams; the word --input may be left out",
    )
    add("--output", default="detections", metavar="DIR", help="folder of the results; default: detections")
    add(
        "--threshold", type=float, default=DEFAULT_THRESHOLD, metavar="SCORE", help="lowest score; default: %(default)s"
    )
    add("--thresholds", metavar="FILE", help="lowest score of each class: thresholds.json of a test")
    add("--slice", type=int, default=0, metavar="PIXELS", help="detect on tiles of this size, for large images")
    add("--overlap", type=int, default=None, metavar="PIXELS", help="of tiles; default: a fifth of their size")
    add("--track", action="store_true", help="number objects in videos, so that each can be followed")
    add("--no-pictures", action="store_true", help="write no images and videos")
    add("--show", action="store_true", help="show pictures in a window: any key for the next image; q or Esc quits")
    parsed = parse_arguments(parser, arguments)
    # Overrides may follow the inputs, and inputs may stand without --input: a key tells where the overrides begin.
    words = [_split(parsed.input), _split(parsed.opts)]
    parsed.input, parsed.opts = ([*one, *other] for one, other in zip(*words, strict=True))
    if not parsed.input:
        parser.error("name images or videos: --input PATH ...")
    return parsed


def _split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the words before the first key of the config, and the others."""
    first = next((i for i, word in enumerate(words) if _KEY.fullmatch(word) and not os.path.exists(word)), len(words))
    return words[:first], words[first:]


def _check_arguments(parsed: argparse.Namespace, sources: Sequence[Source]) -> None:
    if parsed.overlap is None:
        parsed.overlap = parsed.slice // 5
    require(parsed.slice == 0 or parsed.slice >= 32, "--slice", parsed.slice, "pixels, 32 or more")
    if parsed.slice:
        require(0 <= parsed.overlap < parsed.slice, "--overlap", parsed.overlap, "pixels, fewer than a tile has")
    require(0 <= parsed.threshold <= 1, "--threshold", parsed.threshold, "a score from 0 to 1")
    if parsed.track and all(source.kind == "image" for source in sources):
        raise InputError("--track follows objects through a video, but every input is an image: leave it out.")


def make_predictor(parsed: argparse.Namespace) -> Predictor:
    """Make the predictor of a command line: the config of --config-file or of the weights, with its overrides."""
    config = config_for(parsed.config_file, parsed.weights, parsed.opts)
    # Compiled unless the command line says something else.
    compile = bool(config.TEST.COMPILE) if "TEST.COMPILE" in parsed.opts else True
    by_name = _read_thresholds(parsed.thresholds) if parsed.thresholds else {}
    predictor = Predictor(config, compile=compile)
    predictor.threshold = {**dict.fromkeys(predictor.category_names, parsed.threshold), **by_name}
    return predictor


def _read_thresholds(path: str) -> dict[str, float]:
    if not os.path.isfile(path):
        raise InputError(f"--thresholds '{path}' is not a file: tools/test_net.py writes it beside its results.")
    with explain_broken_json("file of thresholds", path):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"--thresholds '{path}' is not an object of class names and scores.")
    return content


def _make_steps(parsed: argparse.Namespace, predictor: Predictor) -> tuple[Detect, Tensor | None]:
    """Return the function that detects; and the thresholds for tracks, None without --track."""
    detect: Detect = on_tiles(predictor, parsed.slice, parsed.overlap) if parsed.slice else predictor
    if not parsed.track:
        return detect, None
    thresholds = predictor.thresholds
    Tracker(thresholds, fps=25.0)  # a missing package is to show before the first frame
    # Lower scores continue a track.
    predictor.thresholds = thresholds * Tracker.LOW
    return detect, thresholds


def _report(summary: Summary, output: Path) -> None:
    pictures = summary.written[2:]
    named = (
        summary.written
        if len(pictures) <= _MOST_NAMED
        else [*summary.written[:2], f"{output} ({len(pictures)} pictures)"]
    )
    per_image = summary.seconds / max(summary.images, 1)
    print(f"{summary.images} images, {summary.detections} detections, {per_image:.3f} seconds per image")
    if summary.images and not summary.detections:
        print("Nothing was found: lower --threshold to see detections with lower scores.")
    for path in named:
        print(f"Wrote {printable(path)}")
