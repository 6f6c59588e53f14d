"""Test a detector: python tools/test_net.py --config-file configs/fcos/NAME.yaml MODEL.WEIGHT FILE [KEY VALUE ...]."""

from fcos_core.commands.test import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
