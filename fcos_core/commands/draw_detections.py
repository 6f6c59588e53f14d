"""Draw the detections of a tested model.

Reads OUTPUT_DIR/inference/DATASET/bbox.json, which a test wrote. Writes one PNG for each image to
OUTPUT_DIR/pictures/DATASET, and the loss curve to OUTPUT_DIR/pictures/losses.png if training left a metrics.jsonl.
"""

from collections.abc import Sequence

from fcos_core.engine.pictures import draw_run
from fcos_core.engine.program import config_parser, make_config, naming_written, parse_arguments
from fcos_core.utils.logger import setup_logger


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every dataset of DATASETS.TEST; None: take the arguments of the command line."""
    parser = config_parser(__doc__, "--config-file configs/demo/shapes.yaml --count 4 --threshold 0.5")
    parser.add_argument("--count", type=int, default=12, help="images to draw of each dataset")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score drawn")
    chosen = parse_arguments(parser, arguments)
    setup_logger("fcos_core", save_dir="", distributed_rank=0)
    config = make_config(chosen, is_train=None)
    with naming_written(config.OUTPUT_DIR, "pictures/**/*.png"):
        draw_run(config, chosen.count, chosen.threshold)
