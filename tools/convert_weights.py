"""Write weights of another framework under this project's names: python tools/convert_weights.py FILE OUT."""

from fcos_core.commands.convert_weights import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
