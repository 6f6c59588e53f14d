"""Train a detector."""

from collections.abc import Sequence

from fcos_core.engine.program import config_parser, make_config, naming_written, parse_arguments, setup_run
from fcos_core.engine.test import RESULTS, test_data_loaders
from fcos_core.engine.train import train, training_folder
from fcos_core.utils.process_group import init_processes

_WRITTEN = ("model_best.pth", "model_final.pth", "log.txt", "metrics.jsonl", f"{RESULTS}/*/*")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and test the final model unless --skip-test is given; None: take the arguments of the command line."""
    parser = config_parser(__doc__, "--config-file configs/demo/shapes.yaml SOLVER.MAX_ITER 100 OUTPUT_DIR runs/first")
    parser.add_argument("--skip-test", action="store_true", help="do not test the final model")
    chosen = parse_arguments(parser, arguments)
    config = make_config(chosen, is_train=True)
    init_processes(config, chosen.local_rank)
    # A second training in this folder is refused before it writes to the log of the first.
    with naming_written(config.OUTPUT_DIR, *_WRITTEN), training_folder(config):
        setup_run(config)
        # Read the test data first: an error in it should show now, not after days of training.
        test_loaders = {} if chosen.skip_test else test_data_loaders(config)
        train(config, test_loaders)
