"""Write weights of another framework under this project's names.

FILE is a file, a URL or a name (zoo://NAME, hf://ORGANIZATION/REPOSITORY/FILE), as MODEL.WEIGHT takes it: weights of
mmdetection's, torchvision's or AdelaiDet's FCOS, or of an ImageNet HRNet or ResNet. OUT must not exist. It loads
wherever weights do.
"""

from collections.abc import Sequence

from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.text import printable
from fcos_core.weights.export import convert_weights

_EXAMPLE = "example:\n  %(prog)s zoo://mmdet_fcos_hrnetv2p_w32_ms_2x hrnet_w32.safetensors"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write OUT; None: take the arguments of the command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="weights of a framework: a file, a URL or a name")
    parser.add_argument("out", metavar="OUT", help="the new file, which ends in .pth or .safetensors")
    chosen = parser.parse_args(arguments)
    print(convert_weights(chosen.file, chosen.out))
    print(f"Wrote {printable(chosen.out)}")
