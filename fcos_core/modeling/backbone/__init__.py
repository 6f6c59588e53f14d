"""Networks from images to features. Importing the package imports each of its files, which registers their builders."""

import importlib
import pkgutil

from fcos_core.modeling.backbone.build import build_backbone

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["build_backbone"]
