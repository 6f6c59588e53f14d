"""Inspect a dataset: counts, sizes, problems, and a config that runs as it is."""

from fcos_core.commands.inspect import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
