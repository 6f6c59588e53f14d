from fcos_core.engine.compiler import compile_for_inference

__all__ = ["compile_for_inference"]
