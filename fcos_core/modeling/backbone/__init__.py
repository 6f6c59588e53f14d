"""Backbones, networks from images to feature levels. Importing the package imports all files: each registers itself."""

import importlib
import pkgutil

from fcos_core.modeling.backbone.build import build_backbone

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["build_backbone"]
