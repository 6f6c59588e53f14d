"""Load the compiled kernels of csrc/ and register operators with PyTorch's dispatcher.

Each operator is stated once, in a file of this folder: schema, argument checks, reference definition, shape function,
gradient and public function. On a device for which csrc/ has no compiled kernel, the reference definition runs.
"""

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

_CPU_KERNELS: list[str] = []  # operators that csrc/ implements for the CPU


@functools.cache
def _warn(fault: str) -> None:
    how_to_build = "To build them, run `pip install --no-build-isolation -e .` in the repository."
    warnings.warn(f"{fault}; slower pure PyTorch ones serve. {how_to_build}", stacklevel=3)


try:
    importlib.import_module("fcos_core._C")
    COMPILED = True
except ImportError as error:
    COMPILED = False
    _warn(f"The compiled operators of fcos_core were not found ({error})")


def define(
    name: str, schema: str, definition: Callable[..., Any], fake: Callable[..., Any], cpu_kernel: bool = True
) -> None:
    """Register the operator `torch.ops.fcos_core.NAME`.

    Args:
        name, schema: of the operator, in PyTorch's schema language.
        definition: plain PyTorch function that runs on devices without a compiled kernel.
        fake: function that returns empty tensors of the results' shapes and dtypes, for torch.compile and torch.export.
        cpu_kernel: True if csrc/ has a kernel for the CPU.
    """
    operator = f"fcos_core::{name}"
    # An extension that was built before the schemas moved to Python registers them itself.
    if not hasattr(torch.ops.fcos_core, name):
        torch.library.define(operator, schema)

    def kernel(*args: Any) -> Any:
        # On a CPU the package calls only the operators that have a CPU kernel.
        if COMPILED and args[0].device.type != "cpu":
            _warn(f"The operators of fcos_core were compiled without kernels for {args[0].device.type}")
        return definition(*args)

    torch.library.impl(operator, "default", func=kernel)
    torch.library.register_fake(operator, fake)
    if cpu_kernel:
        _CPU_KERNELS.append(name)


def warn_if_older_than_source() -> None:
    """Warn if the extension lacks CPU kernels that csrc/ has; call it after all operators are defined."""
    missing = [name for name in _CPU_KERNELS if not has_kernel(name, "CPU")]
    if COMPILED and missing:
        _warn(f"The compiled operators of fcos_core are older than its source and lack {', '.join(missing)}")


@functools.cache
def has_kernel(name: str, dispatch_key: str) -> bool:
    """Return True if the operator was compiled for the dispatch key "CPU" or "CUDA"."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fcos_core::{name}", dispatch_key)


def refuse_second_derivative(name: str, definition: str) -> None:
    """Raise RuntimeError if a backward pass records a graph (create_graph=True); point to the plain `definition`."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{name} can be differentiated once; create_graph=True asks for a second derivative. {definition} has one."
        )
