"""Count the multiply-adds of backbone and neck.

Usage: python tools/flops.py [--config-file FILE | --all]
"""

from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from fcos_core.config import cfg
from fcos_core.engine.program import ArgumentParser, run_program
from fcos_core.errors import InputError
from fcos_core.modeling.detector import build_detection_model

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "fcos"
# GFLOPs in the published table of HRNet-FCOS.
PUBLISHED = {
    "fcos_R_50_5l_2x": 90.6,
    "fcos_hrnet_w18_5l_2x": 80.6,
    "fcos_hrnet_w18_5l_ms_syncbn_2x": 80.6,
    "fcos_R_50_6l_2x": 130.5,
    "fcos_hrnet_w18_6l_2x": 116.5,
    "fcos_hrnet_w18_6l_ms_syncbn_2x": 116.5,
    "fcos_R_101_5l_2x": 162.8,
    "fcos_hrnet_w32_5l_2x": 173.6,
    "fcos_hrnet_w32_5l_syncbn_2x": 173.6,
    "fcos_R_101_6l_2x": 202.7,
    "fcos_hrnet_w32_6l_2x": 209.5,
    "fcos_hrnet_w32_6l_syncbn_2x": 209.5,
    "fcos_hrnet_w40_6l_3x": 284.4,
}


def count(config_file: Path, height: int = 768, width: int = 1280) -> tuple[int, float]:
    """Count the parameters of the whole model, and the multiply-adds / 1e9 of its backbone and neck."""
    config = cfg.clone()
    config.merge_from_file(str(config_file))
    # Counting needs shapes only, so the meta device saves memory and time.
    with torch.device("meta"):
        model = build_detection_model(config).eval()
        image = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter:
        model.backbone(image)
    # The counter counts a multiply-add as two operations.
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2 / 1e9


def main() -> None:
    """Print a table of parameters and multiply-adds."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", metavar="FILE", help="the YAML file of one model")
    parser.add_argument("--all", action="store_true", help="every model of the published table")
    arguments = parser.parse_args()
    if bool(arguments.config_file) == arguments.all:
        raise InputError("Name one model with --config-file FILE, or give --all.")
    files = [CONFIGS / f"{name}.yaml" for name in PUBLISHED] if arguments.all else [Path(arguments.config_file)]
    print("multiply-adds / 1e9 of backbone and neck on a 3x768x1280 input")
    print(f"{'model':32} {'parameters':>12} {'GFLOPs':>8} {'published':>9} {'off by':>7}")
    for file in files:
        parameters, gflops = count(file)
        published = PUBLISHED.get(file.stem)
        compared = f"{published:9.1f} {gflops / published - 1:+7.2%}" if published else f"{'-':>9} {'-':>7}"
        print(f"{file.stem:32} {parameters:12,} {gflops:8.1f} {compared}")


if __name__ == "__main__":
    run_program(main)
