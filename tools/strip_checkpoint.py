"""Write a checkpoint without its optimizer: python tools/strip_checkpoint.py FILE OUT.pth [--ema]."""

from fcos_core.commands.strip_checkpoint import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
