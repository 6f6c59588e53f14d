"""Configuration; defaults.py lists every key with its default."""

from fcos_core.config.defaults import _C as cfg
from fcos_core.config.node import Config

__all__ = ["Config", "cfg"]
