"""Convert a dataset in Pascal VOC, YOLO or CSV format to COCO files."""

from fcos_core.commands.convert import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
