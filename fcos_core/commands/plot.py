"""Draw losses, learning rate and metrics of trainings."""

from collections.abc import Sequence

from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.text import printable
from fcos_core.visualize.curves import METRICS, plot_runs

_EXAMPLE = """example:
  %(prog)s training_dir/first training_dir/second --smooth 5 --out runs.png
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the runs into one picture; None: take the arguments of the command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a training, or its metrics.jsonl")
    parser.add_argument("--out", default="curves.png", metavar="FILE", help="picture: .png, .svg or .pdf (%(default)s)")
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="draw means of N neighbouring losses")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=METRICS,
        metavar="NAME",
        help=f"metrics to draw; * stands for anything ({' '.join(METRICS).replace('%', '%%')})",
    )
    options = parser.parse_args(arguments)
    plot_runs(options.runs, options.out, options.metrics, options.smooth, key="--out")
    print(f"Wrote {printable(options.out)}")
