"""Write the weights of a training state without its optimizer, schedule and scaler.

OUT keeps the config and the names of the classes, and must not exist.
"""

from collections.abc import Sequence

from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.text import printable
from fcos_core.weights.export import strip_checkpoint

_EXAMPLE = "example:\n  %(prog)s demo/shapes/model_final.pth shapes.safetensors"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write OUT; None: take the arguments of the command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="a checkpoint: a file, a URL or a name")
    parser.add_argument("out", metavar="OUT", help="the new file, which ends in .pth or .safetensors")
    parser.add_argument(
        "--ema",
        action="store_true",
        help="write the moving average of the weights that training with SOLVER.EMA_DECAY has kept",
    )
    chosen = parser.parse_args(arguments)
    print(strip_checkpoint(chosen.file, chosen.out, chosen.ema))
    print(f"Wrote {printable(chosen.out)}")
