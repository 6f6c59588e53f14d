"""The command `fcos`, which is also `python -m fcos_core`."""

import argparse
import difflib
import functools
import importlib
import sys
from typing import NamedTuple


class Command(NamedTuple):
    """Entry of a command in `fcos --help`; the module of its name in fcos_core/commands does the work."""

    purpose: str
    example: str


COMMANDS = {
    "train": Command("train a detector", "--config-file mine.yaml OUTPUT_DIR training_dir/mine"),
    "test": Command(
        "measure the AP of a detector", "--config-file mine.yaml MODEL.WEIGHT training_dir/mine/model_final.pth"
    ),
    "predict": Command(
        "show what a detector finds in images and videos",
        "--weights zoo://mmdet_fcos_hrnetv2p_w32_ms_2x --input photographs/ clip.mp4",
    ),
    "export": Command("write a detector for another runtime", "--weights model_final.pth --format onnx"),
    "convert": Command("convert VOC, YOLO or CSV annotations to COCO", "my_photos data/mine --split 0.8/0.2"),
    "inspect": Command("check a dataset and propose a config", "data/mine --write mine.yaml"),
    "plot": Command("draw losses and metrics of trainings", "training_dir/mine training_dir/other"),
    "zoo": Command("list published detectors", "mmdet_fcos_hrnetv2p_w32_ms_2x"),
    "draw_detections": Command("draw the detections of a test", "--config-file configs/demo/shapes.yaml"),
    "convert_weights": Command("rename weights of another framework", "FILE.pth OUT.safetensors"),
    "strip_checkpoint": Command("leave out what only training needs", "model_final.pth OUT.pth"),
    "env": Command("describe this machine and its libraries", ""),
}


def main() -> None:
    """Run the command that the first word names."""
    words = sys.argv[1:]
    # torch.distributed.launch puts its option before all other words.
    launcher = [word for word in words[:1] if word.startswith(("--local-rank=", "--local_rank="))]
    name, *rest = _parse(words[len(launcher) :])
    try:
        # Here, as PyTorch takes seconds to import: `fcos --help` needs none of it.
        from fcos_core.engine.program import run_program

        command = importlib.import_module(f"fcos_core.commands.{name}")
        run_program(functools.partial(command.main, [*launcher, *rest]))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def _parse(words: list[str]) -> list[str]:
    """Return `words` if the first names a command; answer --help and --version, and leave with an error otherwise."""
    from fcos_core.utils.arguments import ArgumentParser

    parser = ArgumentParser(
        prog="fcos",
        usage="fcos COMMAND [ARGUMENT ...]",
        description="Detect objects with HRNet-FCOS. `fcos COMMAND --help` explains a command.",
        epilog=_table(),
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument("command", metavar="COMMAND", nargs="?", help=argparse.SUPPRESS)
    chosen = parser.parse_args(words[:1])
    if chosen.version:
        import fcos_core

        print(f"fcos_core {fcos_core.__version__}")
        sys.exit()
    if chosen.command is None:
        parser.print_help()
        sys.exit(2)
    if chosen.command not in COMMANDS:
        near = difflib.get_close_matches(chosen.command, COMMANDS, n=1, cutoff=0.0)[0]
        parser.error(f"there is no command {chosen.command!r}; the nearest is {near!r}")
    return words


def _table() -> str:
    rows = [(name, *command) for name, command in COMMANDS.items()]
    return "commands:\n" + "\n".join(
        f"  {name:<16}  {purpose}\n{'':<20}fcos {name} {example}".rstrip() for name, purpose, example in rows
    )


if __name__ == "__main__":
    main()
