"""Datasets, transforms, samplers and the loader."""

from fcos_core.data.build import make_data_loader

__all__ = ["make_data_loader"]
