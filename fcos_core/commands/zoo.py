"""List the published weights that MODEL.WEIGHT takes as zoo://NAME, best first; or say how to use one of them."""

import logging
from collections.abc import Sequence

from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.text import printable
from fcos_core.weights.zoo import SCHEME, ZOO, ZooModel, zoo_url

_EXAMPLE = """examples:
  %(prog)s
  %(prog)s mmdet_fcos_hrnetv2p_w32_ms_2x --download"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or all about one model; None: take the arguments of the command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("name", metavar="NAME", nargs="?", help="tell how to use this model")
    parser.add_argument("--download", action="store_true", help="download the weights of NAME")
    chosen = parser.parse_args(arguments)
    if chosen.name is None:
        if chosen.download:
            parser.error("--download needs NAME")
        print(_table())
        return
    name = chosen.name.removeprefix(SCHEME)
    url = zoo_url(f"{SCHEME}{name}")
    print(_describe(name, ZOO[name]))
    if chosen.download:
        # Here, as PyTorch takes seconds to import.
        from fcos_core.utils.logger import setup_logger
        from fcos_core.weights.download import download

        setup_logger("fcos_core", save_dir="", distributed_rank=0).setLevel(logging.INFO)
        print(f"Wrote {printable(download(url))}")


def _table() -> str:
    rows = sorted(ZOO.items(), key=lambda row: -(row[1].ap or 0))
    lines = [f"{'NAME':<42} {'AP':>5}  CONFIG"]
    lines += [f"{name:<42} {_ap(model):>5}  {_config(model)}" for name, model in rows]
    return "\n".join([*lines, "AP: COCO minival, in percent, as its authors published it; -: an ImageNet body."])


def _describe(name: str, model: ZooModel) -> str:
    rows = [f"name     {name}", f"AP       {_ap(model)}", f"licence  {model.licence}", f"weights  {model.url}"]
    if model.ap is None:
        return "\n".join([*rows, f"To train from it: fcos train --config-file FILE.yaml MODEL.WEIGHT {SCHEME}{name}"])
    rows += [f"config   {_config(model)}", f"To use it:  fcos predict --weights {SCHEME}{name} --input photograph.jpg"]
    words = f"--config-file {_config(model)} MODEL.WEIGHT {SCHEME}{name}"
    return "\n".join([*rows, f"To test it: fcos test {words}"])


def _ap(model: ZooModel) -> str:
    return "-" if model.ap is None else f"{model.ap:.1f}"


def _config(model: ZooModel) -> str:
    return "-" if model.ap is None else f"configs/zoo/{model.conventions}.yaml"
