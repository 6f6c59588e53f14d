"""HRNet-FCOS: fully convolutional one-stage object detection on high-resolution networks."""

from fcos_core.utils.launcher import leave_with_launcher

# Before PyTorch is imported, which takes seconds: a launcher that ends earlier than this call is not noticed.
leave_with_launcher()

from fcos_core import published_scripts  # noqa: E402
from fcos_core.predictor import Predictor  # noqa: E402

__version__ = "1.0.0"
__all__ = ["Predictor"]

published_scripts.install()
