"""Draw the detections of a tested model: python tools/draw_detections.py --config-file FILE [KEY VALUE ...]."""

from fcos_core.commands.draw_detections import main
from fcos_core.engine.program import run_program

if __name__ == "__main__":
    run_program(main)
