"""Train a detector.

Usage: python tools/train_net.py --config-file configs/fcos/NAME.yaml [KEY VALUE ...]
"""

from fcos_core.engine.program import config_parser, make_config, parse_arguments, run_program, setup_run
from fcos_core.engine.test import test_data_loaders
from fcos_core.engine.train import train, training_folder
from fcos_core.utils.process_group import init_processes


def main() -> None:
    """Train, and test the final model unless --skip-test is given."""
    parser = config_parser(__doc__)
    parser.add_argument("--skip-test", action="store_true", help="do not test the final model")
    arguments = parse_arguments(parser)
    config = make_config(arguments)
    init_processes(config, arguments.local_rank)
    # A second training in this folder is refused before it writes to the log of the first.
    with training_folder(config):
        setup_run(config)
        # Read the test data first: an error in it should show now, not after days of training.
        test_loaders = {} if arguments.skip_test else test_data_loaders(config)
        train(config, test_loaders)


if __name__ == "__main__":
    run_program(main)
