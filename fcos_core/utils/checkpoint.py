"""Published import path of the checkpointer, kept for scripts."""

from fcos_core.weights.checkpointer import DetectronCheckpointer as DetectronCheckpointer
