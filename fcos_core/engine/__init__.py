"""Training and testing; `compile_for_inference` keeps its published path here."""

from fcos_core.deploy.compiler import compile_for_inference

__all__ = ["compile_for_inference"]
