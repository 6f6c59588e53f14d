"""Write the weights of a training state without its optimizer, schedule and scaler.

    python tools/strip_checkpoint.py FILE OUT.pth [--ema]
    python tools/strip_checkpoint.py FILE OUT.safetensors [--ema]

OUT keeps the config and the names of the classes, and must not exist. --ema writes the moving average of the weights
that training with SOLVER.EMA_DECAY has kept.
"""

from fcos_core.engine.program import ArgumentParser, run_program
from fcos_core.weights.export import strip_checkpoint


def main() -> None:
    """Write OUT."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="FILE", help="a checkpoint: a file, a URL or a name")
    parser.add_argument("out", metavar="OUT", help="the new file, which ends in .pth or .safetensors")
    parser.add_argument("--ema", action="store_true", help="write the moving average of the weights")
    arguments = parser.parse_args()
    print(strip_checkpoint(arguments.file, arguments.out, arguments.ema))


if __name__ == "__main__":
    run_program(main)
