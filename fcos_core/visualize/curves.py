"""Draw curves of a training run."""

from pathlib import Path

from matplotlib.figure import Figure

from fcos_core.utils.metrics_file import read_metrics


def plot_losses(metrics_file: str | Path, picture: str | Path) -> None:
    """Draw every loss of a metrics file (metrics.jsonl) over the iterations, as a PNG."""
    rows = [row for row in read_metrics(metrics_file) if "loss" in row]
    # A Figure of its own, unlike pyplot, needs no screen and changes no global state.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in [key for key in rows[0] if key.startswith("loss")]:
        axes.plot([row["iteration"] for row in rows], [row[name] for row in rows], label=name)
    axes.set(xlabel="iteration", ylabel="loss (median of a log period)", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
