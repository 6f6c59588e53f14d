"""The published import path of the checkpointer."""

from fcos_core.weights.checkpointer import DetectronCheckpointer as DetectronCheckpointer
