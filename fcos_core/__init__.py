"""HRNet-FCOS: fully convolutional one-stage object detection on high-resolution networks."""

__version__ = "1.0.0"
