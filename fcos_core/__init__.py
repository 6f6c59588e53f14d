"""HRNet-FCOS: fully convolutional one-stage object detection on high-resolution networks."""

from typing import TYPE_CHECKING, Any

from fcos_core.utils.launcher import leave_with_launcher

# Before PyTorch is imported, which takes seconds: a launcher that ends earlier than this call is not noticed.
leave_with_launcher()

from fcos_core import published_scripts  # noqa: E402

if TYPE_CHECKING:
    from fcos_core.predictor import Predictor

__version__ = "1.0.0"
__all__ = ["Predictor"]

published_scripts.install()


def __getattr__(name: str) -> Any:
    """Import `Predictor` when it is asked for: it needs PyTorch, and `fcos --help` does not."""
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fcos_core.predictor import Predictor

    return Predictor
