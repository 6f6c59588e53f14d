"""Detect objects in images, videos and live pictures; see python tools/demo.py --help and docs/predict.md."""

from fcos_core.commands.predict import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
