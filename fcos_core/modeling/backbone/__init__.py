"""Networks from images to features; importing this package registers them all."""

from fcos_core.modeling.backbone.build import build_backbone

__all__ = ["build_backbone"]
