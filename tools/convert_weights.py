"""Write weights of another framework under this project's names.

    python tools/convert_weights.py FILE OUT.pth
    python tools/convert_weights.py FILE OUT.safetensors

FILE is a file, a URL or a name (zoo://NAME, hf://ORGANIZATION/REPOSITORY/FILE), as MODEL.WEIGHT takes it: weights of
mmdetection's, torchvision's or AdelaiDet's FCOS, or of an ImageNet HRNet or ResNet. OUT must not exist. It loads
wherever weights do.
"""

from fcos_core.engine.program import ArgumentParser, run_program
from fcos_core.weights.export import convert_weights


def main() -> None:
    """Write OUT."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="FILE", help="weights of a framework: a file, a URL or a name")
    parser.add_argument("out", metavar="OUT", help="the new file, which ends in .pth or .safetensors")
    arguments = parser.parse_args()
    print(convert_weights(arguments.file, arguments.out))


if __name__ == "__main__":
    run_program(main)
