"""Describe this machine, its libraries and this installation, as a report of a fault needs it."""

from collections.abc import Sequence

from fcos_core.utils.arguments import ArgumentParser
from fcos_core.utils.collect_env import collect_env_info


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the description; None: take the arguments of the command line."""
    ArgumentParser(description=__doc__, epilog="example:\n  %(prog)s").parse_args(arguments)
    print(collect_env_info())
