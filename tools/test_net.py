"""Test a detector: python tools/test_net.py --config-file configs/fcos/NAME.yaml MODEL.WEIGHT FILE [KEY VALUE ...]"""

from fcos_core.engine import run
from fcos_core.engine.launch import config_parser, init_processes, make_config, parse_arguments, run_program
from fcos_core.errors import require


def main() -> None:
    arguments = parse_arguments(config_parser(__doc__))
    config = make_config(arguments)
    init_processes(config, arguments.local_rank)
    run.setup_run(config)
    require(len(config.DATASETS.TEST) > 0, "DATASETS.TEST", config.DATASETS.TEST, "the name of a dataset")
    run.test(config, run.test_data_loaders(config))


if __name__ == "__main__":
    run_program(main)
