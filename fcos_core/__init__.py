"""HRNet-FCOS: fully convolutional one-stage object detection on high-resolution networks."""

from fcos_core import published_scripts
from fcos_core.predictor import Predictor

__version__ = "1.0.0"
__all__ = ["Predictor"]

published_scripts.install()
