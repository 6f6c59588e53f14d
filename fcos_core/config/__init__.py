"""The configuration: every key and its default stands in defaults.py."""

from fcos_core.config.defaults import _C as cfg
from fcos_core.config.node import Config

__all__ = ["Config", "cfg"]
