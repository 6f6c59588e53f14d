"""Curves of a training's metrics."""

from pathlib import Path

from fcos_core.utils.metrics_file import read_metrics


def plot_losses(metrics_file: str | Path, picture: str | Path) -> None:
    """Draw every loss of a metrics file over the iterations, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in read_metrics(metrics_file) if "loss" in row]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name in [key for key in rows[0] if key.startswith("loss")]:
        axes.plot([row["iteration"] for row in rows], [row[name] for row in rows], label=name)
    axes.set(xlabel="iteration", ylabel="loss (median of a log period)", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
