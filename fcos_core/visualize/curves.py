"""Draw curves of training runs."""

import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from fcos_core.errors import InputError, require
from fcos_core.utils.files import explaining_failure, replacing
from fcos_core.utils.metrics_file import read_metrics
from fcos_core.utils.text import printable
from fcos_core.visualize.palette import COLOURS

# Metrics that are drawn without a choice, as patterns: losses, learning rate, results of evaluations.
METRICS = ("loss*", "lr", "*/AP", "*/AP50")
FORMATS = (".png", ".svg", ".pdf")
_LINES = ("-", "--", ":", "-.")
_COLUMNS, _NAME_LETTERS = 3, 60
# Ratio of the highest and the lowest loss or learning rate from which the scale is logarithmic.
_LOG_FROM = 10

# A run's curves: metric to iterations and values.
_Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def plot_losses(metrics_file: str | Path, picture: str | Path) -> None:
    """Draw every loss of a metrics file (metrics.jsonl) over the iterations; see `plot_runs`."""
    if not any(name.startswith("loss") for name in _read(metrics_file)):
        raise InputError(
            f"'{metrics_file}' holds no loss to draw: the first comes after SOLVER.LOG_PERIOD iterations of training."
        )
    plot_runs([metrics_file], picture, ("loss*",))


def plot_runs(
    runs: Sequence[str | Path],
    picture: str | Path,
    metrics: Sequence[str] = METRICS,
    smoothing: int = 1,
    key: str = "OUTPUT_DIR",
) -> None:
    """Draw metrics of runs over the iterations into one picture, a panel for each metric, a line for each run.

    Args:
        runs: folders with a metrics.jsonl, or such files.
        picture: file to write; its ending is one of FORMATS.
        metrics: patterns of names, in which * stands for anything. Each must match a metric of a run, except METRICS.
        smoothing: number of neighbouring points whose mean is drawn, with the values themselves behind it; an even
            one means the next. The learning rate and evaluations are drawn as they are.
        key: the config key or option that chose the folder of `picture`, for an error in writing it.

    Of an iteration that a file has twice, the last value counts. A value that is not a number leaves a gap.

    Raises:
        InputError: a file is missing or has no metric to draw, or the picture cannot be written.
    """
    suffix = Path(picture).suffix.lower()
    require(suffix in FORMATS, "The picture", str(picture), f"a file name that ends with {', '.join(FORMATS)}")
    require(smoothing >= 1, "The smoothing", smoothing, "1 or more points")
    curves = [_read(run) for run in runs]
    names = _matching(curves, metrics, runs)
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    # A Figure of its own, unlike pyplot, needs no screen and changes no global state.
    figure = Figure(figsize=(max(4.6 * columns, 6), 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, name in zip_longest(panels, names):
        if name is None:
            axes.remove()
        else:
            _draw(axes, name, [run.get(name) for run in curves], smoothing)
    if len(runs) > 1:
        lines = [axes.plot([], [], **_style(place))[0] for place in range(len(runs))]
        figure.legend(lines, _run_names(runs), loc="outside lower center", ncols=1 if len(runs) < 4 else 2)
    with explaining_failure(picture, key), replacing(str(picture)) as file:
        figure.savefig(file, format=suffix[1:], dpi=120)


def _read(run: str | Path) -> _Curves:
    """Read the curves of a folder or a metrics file."""
    path = Path(run) / "metrics.jsonl" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise InputError(f"'{path}' does not exist: name the OUTPUT_DIR of a training or its metrics.jsonl.")
    points: dict[str, dict[int, float]] = {}
    for row in read_metrics(path):
        for name in row.keys() - {"iteration"}:
            value = row[name] if _is_number(row[name]) else float("nan")
            points.setdefault(name, {})[row["iteration"]] = value
    return {name: (np.array(sorted(of)), np.array([of[i] for i in sorted(of)])) for name, of in points.items()}


def _matching(curves: Sequence[_Curves], metrics: Sequence[str], runs: Sequence[str | Path]) -> list[str]:
    """Return the names that match, in the order of the patterns."""
    present = sorted({name for run in curves for name in run})
    found = {pattern: [name for name in present if fnmatchcase(name, pattern)] for pattern in metrics}
    lacking = [pattern for pattern in metrics if not found[pattern] and (pattern not in METRICS)]
    names = list(dict.fromkeys(name for matches in found.values() for name in matches))
    if lacking or not names:
        where = ", ".join(f"'{run}'" for run in runs)
        holds = f"they hold {', '.join(present)}" if present else "they hold no metrics yet"
        raise InputError(f"No run of {where} has a metric {' or '.join(lacking or metrics)}: {holds}.")
    return names


def _draw(axes: Axes, name: str, curves: Sequence[tuple[np.ndarray, np.ndarray] | None], smoothing: int) -> None:
    lowest, highest, noisy = np.inf, 0.0, name != "lr" and "/" not in name
    for place, curve in enumerate(curves):
        if curve is None:
            continue
        iterations, values = curve
        # A value between two gaps makes no line; among many points a mark would hide the line.
        marker = "." if len(values) < 60 else None
        positive = values[values > 0]
        lowest, highest = min([lowest, *positive]), max([highest, *positive])
        if smoothing > 1 and noisy:
            axes.plot(iterations, values, color=_style(place)["color"], alpha=0.25, linewidth=0.8)
            values, marker = _smoothed(values, smoothing), None
        axes.plot(iterations, values, marker=marker, **_style(place))
    axes.set(title=_plain(name), xlabel="iteration")
    axes.grid(alpha=0.3)
    if name.startswith(("loss", "lr")) and highest > _LOG_FROM * lowest:
        axes.set_yscale("log")
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter="{x:.3g}")


def _smoothed(values: np.ndarray, count: int) -> np.ndarray:
    """Return means of `count` neighbours, fewer at the ends; a gap stays a gap."""
    known, half = np.isfinite(values), count // 2
    ones = np.ones(2 * half + 1)
    sums, counts = (
        np.convolve(part, ones)[half : half + len(values)] for part in (np.where(known, values, 0), known.astype(float))
    )
    return np.where(known, sums / np.maximum(counts, 1), np.nan)


def _style(place: int) -> dict[str, str]:
    colours = len(COLOURS)
    return {"color": COLOURS[place % colours], "linestyle": _LINES[place // colours % len(_LINES)]}


def _run_names(runs: Sequence[str | Path]) -> list[str]:
    """Return the folders' names; the whole paths where two are equal."""
    paths = [os.path.abspath(run) for run in runs]
    folders = [Path(path).parent if path.endswith(".jsonl") else Path(path) for path in paths]
    names = [folder.name for folder in folders]
    return [_plain(name if names.count(name) == 1 else str(run)) for name, run in zip(names, runs, strict=True)]


def _plain(name: str) -> str:
    """Shorten a name, and keep matplotlib from reading formulas in it."""
    shown = printable(name)
    if len(shown) > _NAME_LETTERS:
        shown = f"{shown[: _NAME_LETTERS // 2]}…{shown[-_NAME_LETTERS // 2 :]}"
    return shown.replace("$", r"\$")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
