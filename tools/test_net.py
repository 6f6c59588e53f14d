"""Test a detector.

Usage: python tools/test_net.py --config-file configs/fcos/NAME.yaml MODEL.WEIGHT FILE [KEY VALUE ...]
"""

from fcos_core.engine.program import config_parser, make_config, parse_arguments, run_program, setup_run
from fcos_core.engine.test import test, test_data_loaders
from fcos_core.errors import require
from fcos_core.utils.process_group import init_processes


def main() -> None:
    """Test the detector in MODEL.WEIGHT on DATASETS.TEST."""
    arguments = parse_arguments(config_parser(__doc__))
    config = make_config(arguments)
    init_processes(config, arguments.local_rank)
    setup_run(config)
    require(len(config.DATASETS.TEST) > 0, "DATASETS.TEST", config.DATASETS.TEST, "the name of a dataset")
    test(config, test_data_loaders(config))


if __name__ == "__main__":
    run_program(main)
