"""Test a detector: measure its AP on the datasets of DATASETS.TEST."""

from collections.abc import Sequence

from fcos_core.engine.program import config_parser, make_config, naming_written, parse_arguments, setup_run
from fcos_core.engine.test import RESULTS, test, test_data_loaders
from fcos_core.errors import require
from fcos_core.utils.process_group import init_processes


def main(arguments: Sequence[str] | None = None) -> None:
    """Test the detector in MODEL.WEIGHT on DATASETS.TEST; None: take the arguments of the command line."""
    parser = config_parser(__doc__, "--config-file configs/demo/shapes.yaml MODEL.WEIGHT demo/shapes/model_final.pth")
    chosen = parse_arguments(parser, arguments)
    config = make_config(chosen)
    init_processes(config, chosen.local_rank)
    with naming_written(config.OUTPUT_DIR, f"{RESULTS}/*/*"):
        setup_run(config)
        require(len(config.DATASETS.TEST) > 0, "DATASETS.TEST", config.DATASETS.TEST, "the name of a dataset")
        test(config, test_data_loaders(config))
