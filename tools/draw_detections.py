"""Draw the detections of a tested model.

    python tools/draw_detections.py --config-file FILE [--count N] [--threshold T] [KEY VALUE ...]

Reads OUTPUT_DIR/inference/DATASET/bbox.json, which tools/test_net.py wrote. Writes one PNG for each image to
OUTPUT_DIR/pictures/DATASET, and the loss curve to OUTPUT_DIR/pictures/losses.png if training left a metrics.jsonl.
"""

from fcos_core.engine.pictures import draw_run
from fcos_core.engine.program import config_parser, make_config, parse_arguments, run_program
from fcos_core.utils.logger import setup_logger


def main() -> None:
    """Draw every dataset of DATASETS.TEST."""
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=12, help="images to draw of each dataset")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score drawn")
    arguments = parse_arguments(parser)
    setup_logger("fcos_core", save_dir="", distributed_rank=0)
    draw_run(make_config(arguments), arguments.count, arguments.threshold)


if __name__ == "__main__":
    run_program(main)
