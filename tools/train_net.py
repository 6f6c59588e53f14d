"""Train a detector: python tools/train_net.py --config-file configs/fcos/NAME.yaml [KEY VALUE ...]."""

from fcos_core.commands.train import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
