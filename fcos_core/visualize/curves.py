"""Draw curves of a training run."""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from fcos_core.errors import InputError
from fcos_core.utils.metrics_file import read_metrics


def plot_losses(metrics_file: str | Path, picture: str | Path) -> None:
    """Draw every loss of a metrics file (metrics.jsonl) over the iterations, as a PNG.

    A line without a number for a loss leaves a gap in its curve. Raise InputError if no line has a loss.
    """
    # Evaluations have lines of their own.
    rows = [row for row in read_metrics(metrics_file) if any(name.startswith("loss") for name in row)]
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith("loss")))
    if not names:
        raise InputError(
            f"'{metrics_file}' holds no loss to draw: the first comes after SOLVER.LOG_PERIOD iterations of training."
        )
    # A Figure of its own, unlike pyplot, needs no screen and changes no global state.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    iterations = [row["iteration"] for row in rows]
    # A value between two gaps makes no line; among many rows a point would hide the line.
    marker, positive = "." if len(rows) < 60 else None, False
    for name in names:
        values = [row[name] if _is_number(row.get(name)) else float("nan") for row in rows]
        positive = positive or any(value > 0 for value in values)
        axes.plot(iterations, values, label=name, marker=marker)
    axes.set(xlabel="iteration", ylabel="loss (median of a log period)", yscale="log" if positive else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
