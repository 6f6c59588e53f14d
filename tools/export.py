"""Export a detector: python tools/export.py --config-file FILE --weights W --format onnx|openvino|torch."""

from fcos_core.commands.export import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
