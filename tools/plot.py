"""Draw losses, learning rate and metrics of trainings: python tools/plot.py RUN [RUN ...] [--out FILE]."""

from fcos_core.commands.plot import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
