"""Load the compiled kernels of csrc/ and register operators with PyTorch's dispatcher.

Each operator is stated once, in a file of this folder: schema, argument checks, reference definition, shape function,
gradient, and the public function that runs the checks and calls `torch.ops.fcos_core`. csrc/ adds compiled kernels for
the CPU and CUDA. On a device without a compiled kernel the reference definition runs.
"""

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

_HOW_TO_BUILD = "To build them, run `pip install --no-build-isolation -e .` in the repository."
_CPU_KERNELS: list[str] = []  # operators that csrc/ implements for the CPU

try:
    importlib.import_module("fcos_core._C")
    COMPILED = True
except ImportError as error:
    COMPILED = False
    warnings.warn(
        f"The compiled operators of fcos_core were not found ({error}); "
        f"slower pure PyTorch ones serve. {_HOW_TO_BUILD}",
        stacklevel=2,
    )


def define(
    name: str, schema: str, definition: Callable[..., Any], fake: Callable[..., Any], cpu_kernel: bool = True
) -> None:
    """Register the operator `torch.ops.fcos_core.NAME`.

    Args:
        name: the operator's name.
        schema: its arguments and results, in PyTorch's schema language.
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
            _warn_no_kernel(args[0].device.type)
        return definition(*args)

    torch.library.impl(operator, "default", func=kernel)
    torch.library.register_fake(operator, fake)
    if cpu_kernel:
        _CPU_KERNELS.append(name)


def warn_if_older_than_source() -> None:
    """Warn if the extension lacks CPU kernels that csrc/ has; call it after all operators are defined."""
    missing = [name for name in _CPU_KERNELS if not has_kernel(name, "CPU")]
    if COMPILED and missing:
        warnings.warn(
            f"The compiled operators of fcos_core are older than its source and lack {', '.join(missing)}; "
            f"slower pure PyTorch ones serve. {_HOW_TO_BUILD}",
            stacklevel=2,
        )


@functools.cache
def _warn_no_kernel(device_type: str) -> None:
    warnings.warn(
        f"The operators of fcos_core were compiled without kernels for {device_type}; "
        f"slower pure PyTorch ones serve. {_HOW_TO_BUILD}",
        stacklevel=2,
    )


@functools.cache
def has_kernel(name: str, dispatch_key: str) -> bool:
    """Return True if the operator was compiled for the dispatch key "CPU" or "CUDA"."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fcos_core::{name}", dispatch_key)


def refuse_second_derivative(name: str, definition: str) -> None:
    """Raise RuntimeError if the running backward pass records a graph, as create_graph=True asks for.

    Args:
        name: the operator.
        definition: plain PyTorch function that computes the same and has a second derivative.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{name} can be differentiated once; create_graph=True asks for a second derivative. {definition} has one."
        )
